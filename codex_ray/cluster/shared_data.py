"""Data sets in the object store: put there once, read there by every process of a cluster.

A process that was told of references opens none of the data sets that they hold; it passes them on
to the hosts that it starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import ray

from codex_ray.data.flat import FlatDataset
from codex_ray.data.kept import keeping, name_of

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment

FETCHING: Final = 600.0
"""Seconds until data that another node has must have come."""
_TOLD: ContextVar[Mapping[str, Any] | None] = ContextVar("told", default=None)


@contextmanager
def told_of(references: Mapping[str, Any]) -> Iterator[None]:
    """In the block, data sets are read where references say, by the name that they are kept under.

    Args:
        references: to plain arrays, as `FlatDataset.arrays` gives them.
    """
    token = _TOLD.set(references)
    arrays = ray.get(list(references.values()), timeout=FETCHING)
    opened = dict(zip(references, map(FlatDataset.from_arrays, arrays), strict=True))
    try:
        with keeping(opened):
            yield
    finally:
        _TOLD.reset(token)


def reference_for(experiment: Experiment) -> tuple[Any, ...]:
    """The reference to an experiment's data, if this process was told of one: one, or none."""
    name = name_of(experiment.data, experiment.seed)
    told = _TOLD.get() or {}
    return (told[name],) if name in told else ()


@contextmanager
def shared(experiment: Experiment, data: tuple[Mapping[str, Any], ...]) -> Iterator[None]:
    """In the block, the experiment's data are these arrays, if there are any."""
    name = name_of(experiment.data, experiment.seed)
    with keeping({name: FlatDataset.from_arrays(data[0])} if data else {}):
        yield
