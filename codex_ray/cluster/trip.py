"""One exchange with hosts under way: what is still to go out, what is out, and what came of it.

What happens to the clients of a lost host is decided here. While clients train others do its part.
Later it takes keys along that nobody else has, and until the survivor set is final the round starts
over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from codex_ray.cluster.packing import Pool
from codex_ray.errors import ClusterError, HostLost
from codex_ray.federation.messages import Trained
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Frames
from codex_ray.types import ClientId, Stage
from codex_ray.wire import kind_of

TRIES: Final = 4
"""Hosts that may be lost over one chunk, until its clients are taken to be the reason."""

Chunk = tuple[ClientId, ...]
"""Clients that one call carries."""


@dataclass
class Trip:
    """One exchange under way: what still has to go out, what is out, and what came of it.

    Attributes:
        stage: of the frames that go out.
        outbox: each client's frame.
        shared: the frames that go out, each in the object store, by its id; empty where they
            are many, or small.
        own: for each host the chunks that only it can do.
        pool: clients for whichever host comes first.
        again: chunks of the pool whose host was lost.
        tries: how many hosts were lost over a chunk.
        waiting: the calls that are out, with their hosts, their tickets and their chunks.
        done: for each host, chunks of the pool that it has trained in this trip.
        inbox: the replies that came.
        lost: clients who were not heard because their host is gone.
        asked_again: whether clients who have sent their summand along still have something to say,
            to the server or to the simulator.
    """

    stage: Stage
    outbox: Frames
    shared: Mapping[int, Any]
    own: list[deque[Chunk]]
    pool: Pool | None = None
    again: deque[Chunk] = field(default_factory=deque)
    tries: dict[Chunk, int] = field(default_factory=dict)
    waiting: dict[Any, tuple[int, int, Chunk]] = field(default_factory=dict)
    done: dict[int, list[Chunk]] = field(default_factory=dict)
    inbox: dict[ClientId, bytes] = field(default_factory=dict)
    lost: set[ClientId] = field(default_factory=set)
    asked_again: bool = False

    def next_for(self, host: int) -> Chunk:
        """The chunk that the host is to do next, taken off; empty when there is none for it."""
        if self.own[host]:
            return self.own[host].popleft()
        if self.again:
            return self.again.popleft()
        return self.pool.take(host, time.monotonic()) if self.pool is not None else ()

    def take(self, parcel: Parcel) -> None:
        """Keeps the replies of a chunk; equal ones stay one object."""
        copies = {id(frame): bytes(frame) for frame in parcel.frames.values()}
        self.inbox |= {client: copies[id(frame)] for client, frame in parcel.frames.items()}

    def go_without(self, clients: set[ClientId], reason: str) -> None:
        """Gives clients up, when it is too late to try the round again.

        From the first unmask request on the survivor set is final: there is no second try.

        Raises:
            HostLost: it is not final yet.
        """
        if self.stage < Stage.UNMASK:
            raise HostLost(reason)
        self.lost |= clients

    def without(self, chunk: Chunk, reason: str, *, begun: bool = True) -> None:
        """Has others do a chunk that was out on a host when it was lost.

        Args:
            chunk: of clients.
            reason: why the host is lost.
            begun: whether the host may have begun with it, and be lost because of it.

        Raises:
            ClusterError: too many hosts were lost over this chunk.
            HostLost: the round has to start over.
        """
        if self.pool is None:
            self.go_without(set(chunk), reason)
            return
        self.tries[chunk] = self.tries.get(chunk, 0) + begun
        if self.tries[chunk] >= TRIES:
            raise ClusterError(
                f"{TRIES} hosts were lost over clients {chunk[0]} to {chunk[-1]} ({reason}): do "
                "they need more memory than a host has?"
            )
        self.again.append(chunk)

    def undo(self, host: int) -> None:
        """Has others train whom only a lost host knew the rest of.

        Raises:
            HostLost: the round has to start over.
        """
        if self.pool is not None:
            self.pool.gone(host)
        for earlier in self.done.pop(host, []):
            self.undo_chunk(earlier, f"host {host} is gone")

    def undo_chunk(self, chunk: Chunk, reason: str) -> None:
        """Has others train those of a chunk who are not done, as its host is gone.

        A client that has sent its summand along is done: another one of this attempt would be a
        second release. One that has only said that it is trained has its keys and its update
        there, and starts over elsewhere.

        Raises:
            HostLost: somebody who is done is still to be asked something.
        """
        undone = tuple(c for c in chunk if _only_trained(self.inbox.get(c)))
        if self.asked_again and any(c in self.inbox and c not in undone for c in chunk):
            raise HostLost(f"{reason}, and its clients are still to be asked")
        for client in undone:
            del self.inbox[client]
        if undone:
            self.again.append(undone)


def _only_trained(reply: bytes | None) -> bool:
    """Whether the client has said that it is trained, and no more."""
    return reply is not None and kind_of(reply) is Trained
