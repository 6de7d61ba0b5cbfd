"""The seam: everything between the server and its clients passes through `exchange`, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from codex_ray.federation.client import Host
from codex_ray.types import ClientId
from codex_ray.wire import Frame

Frames = Mapping[ClientId, Frame]


class Transport(Protocol):
    """The plug-in point. Every transport gives the same replies to the same frames, to the bit."""

    @property
    def lost(self) -> frozenset[ClientId]:
        """Clients whose host died in the last exchange, after the survivor set was final."""
        ...

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies that came in time. A client that is missing has gone silent.

        Raises:
            HostLost: a host died before the survivor set was final; the round may be tried again.
        """
        ...

    def recover(self) -> None:
        """Makes lost hosts ready for another attempt; their clients start it from nothing."""
        ...

    def close(self) -> None:
        """Lets go of whatever the transport holds."""
        ...


class LocalTransport:
    """All clients on one host in this process: the reference that other transports must equal."""

    lost: frozenset[ClientId] = frozenset()

    def __init__(self, host: Host) -> None:
        self._host = host

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """Every client's reply."""
        return self._host.handle(outbox)

    def recover(self) -> None:
        """A local host is never lost."""

    def close(self) -> None:
        """Nothing is held."""
