"""Prepared records as a data set: a client's shard is read, and checked, when it is asked for.

A host so reads the shards of the clients that it trains, and whoever measures keeps the held-out
records alone. The process that begins a run looks at files and at the manifest, and at no record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import check_client
from codex_ray.data.on_request import OnRequest
from codex_ray.data.preparing import Prepare
from codex_ray.data.raw_tables import RawTables
from codex_ray.data.stand_in import StandIn
from codex_ray.errors import DataError
from codex_ray.types import ClientId


@dataclass(frozen=True)
class PreparedClients:
    """Clients whose records are on disk until somebody asks for them.

    Attributes:
        tables: their numbers, read on request.
        prepare: how numbers are scaled and gaps filled.
        sizes: how many records each client trains on; at the most, where some may be left out.
        classes: of labels.
        check: returns when every file is what it should be, as far as can be told without a record.
    """

    tables: RawTables
    prepare: Prepare
    sizes: Sequence[int] = field(repr=False)
    classes: int
    check: Callable[[], None] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise DataError("a federated data set needs at least one client: give its records")
        self.tables.check(self.prepare)

    @property
    def population(self) -> int:
        """How many clients there are."""
        return len(self.sizes)

    def client(self, client: ClientId) -> Records:
        """The records of one client; those asked for last are kept, as far as there is room.

        Raises:
            DataError: there is no such client, or its shard is not what its manifest says; or a
                number is missing, and nothing says what stands for it.
        """
        check_client(client, self.population)
        return self._clients[client]

    def test(self) -> Records:
        """The held-out pooled test set; one shard is read after the other, the first time alone.

        Raises:
            DataError: as `client`, or nothing is held out.
        """
        return self._test

    @property
    def prefetch(self) -> bool:
        """Whether the next clients should be asked for ahead: the last one had to be read."""
        return self._clients.missed

    @cached_property
    def stand_in(self) -> StandIn:
        """As many made-up records for each client, as the manifest says."""
        return StandIn(self.sizes, len(self.tables.columns.names), self.classes)

    @cached_property
    def _clients(self) -> OnRequest[Records]:
        return OnRequest(self.population, lambda one: self.tables.records(one, self.prepare))

    @cached_property
    def _test(self) -> Records:
        found = self.tables.test(self.prepare)
        if not len(found):
            raise DataError(
                "data.test_fraction: of such small clients it holds out no record: raise it"
            )
        return found
