"""The data sets that the trials of a sweep have in common, opened once for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from codex_ray.data.flat import FlatDataset
from codex_ray.data.kept import name_of, opened
from codex_ray.randomness import Randomness
from codex_ray.sweeping.settings import Planner, Setting

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def shared_data(
    planner: Planner, settings: Sequence[Setting], *, most: float, at_least: int = 2
) -> dict[str, Arrays]:
    """Plain arrays of each data set that several trials train on, by the name it is kept under.

    A data set that few trials use, that does not fit, or whose clients outnumber those that all
    trials together ask for, is left to the trials, each of which opens it for itself.

    Args:
        planner: of the sweep.
        settings: the trials that are still to run.
        most: bytes for all of it.
        at_least: trials that have to use a data set.

    Raises:
        InputError: one cannot be opened.
    """
    experiments = [planner.experiment(setting) for setting in settings]
    names = [name_of(one.data, one.seed) for one in experiments]
    found: dict[str, Arrays] = {}
    for name, uses in Counter(names).most_common():
        if uses < at_least:
            break
        experiment = experiments[names.index(name)]
        dataset = opened(
            experiment.data, Randomness.of(experiment.seed).public, seed=experiment.seed
        )
        cohort = experiment.federation.sampler.expected(dataset.population)
        if uses * experiment.rounds * cohort < dataset.population:
            continue
        flat = FlatDataset.of(dataset, most=most)
        if flat is not None:
            most -= flat.nbytes
            found[name] = flat.arrays()
    return found
