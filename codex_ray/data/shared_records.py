"""Any number of clients that share a few sets of records: for measuring, and for nothing else.

What a framework costs shows only where making the clients costs nothing. Client i holds the records
of client i modulo `sets`, which are noise, made once in each process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codex_ray.data.dataset import Records
from codex_ray.errors import ConfigError
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId


@dataclass(frozen=True)
class SharedRecords:
    """A population of `clients`, and the few sets of records that they share."""

    clients: int
    sets: tuple[Records, ...]
    held_out: Records

    @property
    def population(self) -> int:
        """How many clients there are."""
        return self.clients

    def client(self, client: ClientId) -> Records:
        """The records of one client, which others hold too."""
        return self.sets[client % len(self.sets)]

    def test(self) -> Records:
        """A few records that no client holds."""
        return self.held_out


def shared_records(
    clients: int,
    *,
    records: int = 50,
    shape: tuple[int, ...] = (1, 28, 28),
    classes: int = 10,
    sets: int = 64,
    test_records: int = 10,
    public: SeedTree,
) -> SharedRecords:
    """The population: for `data: {kind: python, factory: codex_ray.data.shared_records:...}`.

    Args:
        clients: how many there are.
        records: how many each holds; 0 for clients that have nothing to train on.
        shape: of a record's features.
        classes: how many labels there are.
        sets: how many different sets of records there are.
        test_records: in the test set.
        public: the run's public streams.

    Raises:
        ConfigError: there are no clients, or no sets.
    """
    if min(clients, sets) < 1:
        raise ConfigError(f"data.args: {clients} clients with {sets} sets: give at least one each")
    rng = public.stream("data", "shared records").numpy()

    def noise(count: int) -> Records:
        features = rng.standard_normal((count, *shape), dtype=np.float32)
        return Records(features, rng.integers(0, classes, count))

    held_out = noise(test_records)
    return SharedRecords(clients, tuple(noise(records) for _ in range(sets)), held_out)
