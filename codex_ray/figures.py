"""Figures of an experiment's records: who is asked for them, how they are found, what they cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from codex_ray.data.prepared import PreparedData
from codex_ray.data.tables import CsvFiles
from codex_ray.experiment import Experiment
from codex_ray.preparation.answers import Answers
from codex_ray.preparation.release import Asked, Release
from codex_ray.randomness import Randomness

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Asking: TypeAlias = Callable[[Experiment, int, Randomness], AbstractContextManager[Asked]]
"""The clients of an experiment, so many, who can be asked in the block."""


def answers_of(experiment: Experiment, population: int, randomness: Randomness) -> Answers:
    """Clients who answer in this process.

    Raises:
        InputError: their records cannot be read.
    """
    data = experiment.data
    assert isinstance(data, CsvFiles | PreparedData)  # Others release nothing.
    tables = data.tables(randomness.public)
    return Answers(release_of(experiment, population), tables, randomness)


def asked_here(
    experiment: Experiment, population: int, randomness: Randomness
) -> AbstractContextManager[Asked]:
    """The same clients, who are asked in this process."""
    return nullcontext(answers_of(experiment, population, randomness))


def release_of(experiment: Experiment, population: int) -> Release:
    """How the figures of the experiment's records are found, and what that costs.

    Without figures in the configuration the data are looked at, for how many columns they have.
    """
    asked, data = experiment.preparation, experiment.data
    if asked.statistics is not None:
        columns = len(asked.statistics.columns)
    else:
        assert isinstance(data, CsvFiles | PreparedData)  # Others release nothing.
        columns = len(data.columns.counted)
    return Release(asked, experiment.trainer, experiment.federation, population, columns)


def figures_event(experiment: Experiment, population: int) -> DpEvent | None:
    """What the release of figures costs whoever is in it; None where nothing is noised."""
    if experiment.preparation.noise_multiplier is None:
        return None
    return release_of(experiment, population).event()
