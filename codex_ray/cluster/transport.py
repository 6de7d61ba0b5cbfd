"""The seam over Ray: chunks of clients, two in flight a host, every wait with a deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from codex_ray.errors import ClusterError, CodexRayError, HostLost
from codex_ray.federation.transport import Frames, work_here
from codex_ray.types import ClientId, Stage
from codex_ray.wire import Frame, kind_of

IN_FLIGHT = 2
CHUNKS_PER_HOST = 4
INLINE = 100_000
"""Bytes from which a broadcast frame goes through the object store instead of with each call."""


@dataclass(frozen=True)
class _Chunk:
    """Clients that one call carries, and the host they are bound to (None: any)."""

    clients: tuple[ClientId, ...]
    host: int | None


@dataclass
class _Trip:
    """One exchange under way.

    Attributes:
        stage: of the frames that go out.
        outbox: each client's frame.
        shared: the one large frame that everyone gets, in the object store; else None.
        own: for each host the chunks that are bound to it.
        free: chunks for whoever comes first.
        waiting: the calls that are out, with their hosts and chunks.
    """

    stage: Stage
    outbox: Frames
    shared: Any | None
    own: dict[int, deque[_Chunk]]
    free: deque[_Chunk]
    waiting: dict[Any, tuple[int, _Chunk]] = field(default_factory=dict)

    def next_for(self, host: int) -> _Chunk | None:
        """The chunk that the host is to do next, taken off its queue."""
        queue = self.own[host] or self.free
        return queue.popleft() if queue else None

    def clients_owed(self) -> set[ClientId]:
        """Everyone bound to a host who has not been heard."""
        chunks = [chunk for _, chunk in self.waiting.values()]
        chunks += [chunk for queue in self.own.values() for chunk in queue]
        return {client for chunk in chunks for client in chunk.clients}


class RayTransport:
    """Exchanges frames with clients on Ray actors.

    Between the training task and the last message of a round a client stays on one host, because
    its update and its keys are there and nowhere else. With as many hosts as clients, client i is
    always on host i.
    """

    def __init__(self, hosts: Sequence[Any], *, population: int, deadline: float) -> None:
        self._hosts = list(hosts)
        self._pinned = population <= len(hosts)
        self._deadline = deadline
        self._place: dict[ClientId, int] = {}
        self._silent: set[int] = set()
        self.lost: frozenset[ClientId] = frozenset()

    @property
    def width(self) -> int:
        """As many machines as there are hosts."""
        return len(self._hosts)

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The clients' replies, in the order in which hosts finish.

        Raises:
            HostLost: a host died, or was silent past the deadline, before the survivor set was
            final.
        """
        self.lost = frozenset()
        if not outbox:
            return {}
        trip = self._prepare(outbox)
        for _ in range(IN_FLIGHT):
            for host in trip.own:
                self._submit(host, trip)
        inbox: dict[ClientId, bytes] = {}
        lost: set[ClientId] = set()
        while trip.waiting:
            done, _ = ray.wait(list(trip.waiting), timeout=self._deadline)
            if not done:  # every host that still owes something has been silent for so long
                self._silent |= {host for host, _ in trip.waiting.values()}
                reason = f"hosts {sorted(self._silent)} gave no answer for {self._deadline:g} s"
                lost |= _without(trip.clients_owed(), trip.stage, reason)
                break
            for ref in done:
                host, chunk = trip.waiting.pop(ref)
                try:
                    inbox |= ray.get(ref, timeout=self._deadline)
                except RayError as error:
                    cause = cause_of(error)
                    if not isinstance(cause, HostLost):
                        raise cause from error
                    lost |= _without(set(chunk.clients), trip.stage, f"host {host}: {cause}")
                self._submit(host, trip)
        self.lost = frozenset(lost)
        return inbox

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """The result of each piece of the server's own work, from whichever host it fell to.

        A piece whose host is lost is done here: it needs nothing that only the host had.
        """
        well = [host for number, host in enumerate(self._hosts) if number not in self._silent]
        if not well:
            return [work_here(task) for task in tasks]
        refs = [
            well[number % len(well)].work.remote(_plain(task)) for number, task in enumerate(tasks)
        ]
        results = []
        for ref, task in zip(refs, tasks, strict=True):
            try:
                results.append(ray.get(ref, timeout=self._deadline))
            except RayError as error:
                cause = cause_of(error)
                if not isinstance(cause, HostLost):
                    raise cause from error
                results.append(work_here(task))
        return results

    def _prepare(self, outbox: Frames) -> _Trip:
        stage = kind_of(next(iter(outbox.values()))).stage
        chunks = self._chunks(sorted(outbox), stage)
        return _Trip(
            stage,
            outbox,
            _shared(outbox),
            {
                host: deque(chunk for chunk in chunks if chunk.host == host)
                for host in range(len(self._hosts))
            },
            deque(chunk for chunk in chunks if chunk.host is None),
        )

    def _chunks(self, clients: list[ClientId], stage: Stage) -> list[_Chunk]:
        """The clients in chunks: to train, for whoever is free; afterwards, where they are."""
        if stage is Stage.TRAIN and not self._pinned:
            size = max(1, -(-len(clients) // (CHUNKS_PER_HOST * len(self._hosts))))
            return [
                _Chunk(tuple(clients[i : i + size]), None) for i in range(0, len(clients), size)
            ]
        if stage is Stage.TRAIN:
            self._place |= {client: client for client in clients}
        by_host: dict[int, list[ClientId]] = {}
        for client in clients:
            by_host.setdefault(self._place[client], []).append(client)
        return [_Chunk(tuple(held), host) for host, held in sorted(by_host.items())]

    def _submit(self, host: int, trip: _Trip) -> None:
        """Gives the host its next chunk, if there is one for it."""
        chunk = trip.next_for(host)
        if chunk is None:
            return
        for client in chunk.clients:
            self._place[client] = host
        actor = self._hosts[host]
        if trip.shared is not None:
            ref = actor.broadcast.remote(trip.shared, list(chunk.clients))
        else:
            ref = actor.handle.remote({c: _plain(trip.outbox[c]) for c in chunk.clients})
        trip.waiting[ref] = (host, chunk)

    def recover(self) -> None:
        """Waits until every host answers again: a dead or hung one is started anew by Ray.

        Raises:
            ClusterError: a host does not come back before the deadline.
        """
        self._place.clear()
        for host in self._silent:  # a hung process does not die by itself
            ray.kill(self._hosts[host], no_restart=False)
        self._silent.clear()
        await_ready(self._hosts, deadline=self._deadline)

    def close(self) -> None:
        """Ends the host actors."""
        for actor in self._hosts:
            ray.kill(actor, no_restart=True)


def await_ready(hosts: Sequence[Any], *, deadline: float) -> None:
    """Returns when every host is built and answers.

    Raises:
        ClusterError: one is not, in time; the message says what the cluster has.
        CodexRayError: a host cannot be built, for the reason that it gives.
    """
    expires = time.monotonic() + deadline
    for number, actor in enumerate(hosts):
        while True:
            try:
                ray.get(actor.ready.remote(), timeout=max(0.1, expires - time.monotonic()))
                break
            except RayTaskError as error:
                raise cause_of(error) from error
            except GetTimeoutError:
                have = ray.cluster_resources()
                raise ClusterError(
                    f"host {number} did not start within {deadline:g} s: the cluster has "
                    f"{have.get('CPU', 0):g} CPUs and {have.get('memory', 0) / 2**30:.1f} GiB: "
                    "lower cluster.hosts or add nodes"
                ) from None
            except RayActorError as error:
                cause = getattr(error, "cause", None) or error
                if "creation task" in str(error):
                    raise cause_of(error) from error
                if time.monotonic() > expires:
                    raise ClusterError(f"host {number} keeps dying: {cause}") from error
                time.sleep(0.2)  # Ray is restarting it


def cause_of(error: RayError) -> CodexRayError:
    """The error that an actor raised on purpose, or one that says in a line what became of it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CodexRayError):
        return cause
    if isinstance(error, CodexRayError):
        return error
    last = (str(cause or error).strip().splitlines() or [type(error).__name__])[-1]
    if isinstance(error, RayTaskError):
        return ClusterError(f"an actor failed: {type(cause or error).__name__}: {last}")
    return HostLost(f"{type(error).__name__}: {last}")


def _without(clients: set[ClientId], stage: Stage, reason: str) -> set[ClientId]:
    """The clients that the round goes on without, when it is too late to try it again.

    From the first unmask request on the survivor set is final: there is no second try.

    Raises:
        HostLost: it is not final yet.
    """
    if stage < Stage.UNMASK:
        raise HostLost(reason)
    return clients


def _shared(outbox: Frames) -> Any | None:
    """The large frame that everyone gets, put into the object store once; else None."""
    first = next(iter(outbox.values()))
    if len(first) < INLINE or any(frame is not first for frame in outbox.values()):
        return None
    return ray.put(np.frombuffer(first, dtype=np.uint8))


def _plain(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame)
