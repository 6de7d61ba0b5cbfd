"""Data sets that many experiments of one process share: each is opened once, or was elsewhere.

Inside `keeping` an experiment that names the data set of an earlier one, with the same seed, gets
what is open already. A data set is the same to the bit whoever opens it, so no result can change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeAlias

from codex_ray.data.dataset import FederatedDataset
from codex_ray.randomness import SeedTree

Kept: TypeAlias = dict[str, FederatedDataset]


class _Source(Protocol):
    """A source of data that can be written down."""

    def open(self, public: SeedTree) -> FederatedDataset:
        """The data set."""
        ...

    def model_dump_json(self, *, exclude: set[str] | None = None) -> str:
        """Its configuration, without the fields that are named."""
        ...


_KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


def name_of(source: _Source, seed: int | None) -> str:
    """What tells a data set from all others: its configuration, and the seed of its splits."""
    # Without a seed, splits are those of seed 0. A run that begins writes down which records it has
    # opened, and they stay the same ones.
    return f"{seed or 0} {source.model_dump_json(exclude={'card', 'manifest'})}"


@contextmanager
def keeping(found: Mapping[str, FederatedDataset] | None = None) -> Iterator[Kept]:
    """What is open already in the block, by name: `found`, and whatever is opened in it."""
    kept = dict(found or {})
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def opened(source: _Source, public: SeedTree, *, seed: int | None) -> FederatedDataset:
    """The data set of `source`, as it is kept, or opened now.

    Raises:
        InputError: it cannot be opened; the message names the field or the file.
    """
    kept = _KEPT.get()
    if kept is None:
        return source.open(public)
    name = name_of(source, seed)
    if name not in kept:
        kept[name] = source.open(public)
    return kept[name]
