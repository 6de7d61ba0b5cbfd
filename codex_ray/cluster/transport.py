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

from codex_ray.cluster.hosts import INLINE, as_frame, as_raw
from codex_ray.cluster.packing import Costs, Pool
from codex_ray.errors import ClusterError, CodexRayError, HostLost
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Frames, work_here
from codex_ray.types import ClientId, Stage
from codex_ray.wire import Frame, kind_of

IN_FLIGHT = 2

Chunk = tuple[ClientId, ...]
"""Clients that one call carries."""


@dataclass
class _Trip:
    """One exchange under way: what still has to go out, what is out, and what came of it.

    Attributes:
        stage: of the frames that go out.
        outbox: each client's frame.
        shared: the one large frame that everyone gets, in the object store; else None.
        own: for each host the chunks that only it can do.
        pool: clients for whichever host comes first.
        waiting: the calls that are out, with their hosts and chunks.
        inbox: the replies that came.
        lost: clients who were not heard because their host is gone.
    """

    stage: Stage
    outbox: Frames
    shared: Any | None
    own: list[deque[Chunk]]
    pool: Pool | None = None
    waiting: dict[Any, tuple[int, Chunk]] = field(default_factory=dict)
    inbox: dict[ClientId, bytes] = field(default_factory=dict)
    lost: set[ClientId] = field(default_factory=set)

    def next_for(self, host: int) -> Chunk:
        """The chunk that the host is to do next, taken off; empty when there is none for it."""
        if self.own[host]:
            return self.own[host].popleft()
        return self.pool.take() if self.pool is not None else ()

    def take(self, parcel: Parcel) -> None:
        """Keeps the replies of a chunk; equal ones stay one object."""
        copies = {id(frame): bytes(frame) for frame in parcel.frames.values()}
        self.inbox |= {client: copies[id(frame)] for client, frame in parcel.frames.items()}

    def owed(self) -> set[ClientId]:
        """Everyone bound to a host who has not been heard."""
        chunks = [chunk for _, chunk in self.waiting.values()]
        chunks += [chunk for queue in self.own for chunk in queue]
        return {client for chunk in chunks for client in chunk}

    def go_without(self, clients: set[ClientId], reason: str) -> None:
        """Gives clients up, when it is too late to try the round again.

        From the first unmask request on the survivor set is final: there is no second try.

        Raises:
            HostLost: it is not final yet.
        """
        if self.stage < Stage.UNMASK:
            raise HostLost(reason)
        self.lost |= clients


class RayTransport:
    """Exchanges frames with clients on Ray actors.

    Between the training task and the last message of a round a client stays on one host, because
    its update and its keys are there and nowhere else. With as many hosts as clients, client i is
    always on host i. Otherwise a client is trained by whichever host has room, and what hosts tell
    of the time that it took decides in which order, and nothing else.
    """

    def __init__(
        self,
        hosts: Sequence[Any],
        *,
        population: int,
        deadline: float,
        costs: Costs | None = None,
        together: int = 1,
    ) -> None:
        """A seam to those actors.

        Args:
            hosts: the actors.
            population: how many clients there are.
            deadline: seconds after which a silent host counts as lost.
            costs: what is known of the time that clients take; nothing, if it is left out.
            together: how many clients a host trains in one program.
        """
        self._hosts = list(hosts)
        self._pinned = population <= len(hosts)
        self._deadline = deadline
        self._costs = costs or Costs(population)
        self._together = together
        self._place: dict[ClientId, int] = {}
        self._silent: set[int] = set()
        self._warm: set[int] = set()
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
            for host in range(len(self._hosts)):
                self._submit(host, trip)
        while trip.waiting:
            done, _ = ray.wait(list(trip.waiting), timeout=self._deadline)
            if not done:  # every host that still owes something has been silent for so long
                self._silent |= {host for host, _ in trip.waiting.values()}
                reason = f"hosts {sorted(self._silent)} gave no answer for {self._deadline:g} s"
                trip.go_without(trip.owed(), reason)
                break
            for ref in done:
                self._receive(ref, trip)
        self.lost = frozenset(trip.lost)
        return trip.inbox

    def _prepare(self, outbox: Frames) -> _Trip:
        """The exchange before anything is out: whoever is not bound to a host is in the pool."""
        stage = kind_of(next(iter(outbox.values()))).stage
        clients = sorted(outbox)
        trip = _Trip(stage, outbox, _shared(outbox), [deque() for _ in self._hosts])
        if stage is Stage.TRAIN and not self._pinned:
            trip.pool = Pool(clients, self._costs, hosts=self.width, together=self._together)
            return trip
        if stage is Stage.TRAIN:
            self._place |= {client: client for client in clients}
        held: list[list[ClientId]] = [[] for _ in self._hosts]
        for client in clients:
            held[self._place[client]].append(client)
        for queue, chunk in zip(trip.own, held, strict=True):
            if chunk:
                queue.append(tuple(chunk))
        return trip

    def _submit(self, host: int, trip: _Trip) -> None:
        """Gives the host its next chunk, if there is one for it."""
        chunk = trip.next_for(host)
        if not chunk:
            return
        if trip.pool is not None:
            self._place |= dict.fromkeys(chunk, host)
        actor = self._hosts[host]
        if trip.shared is not None:
            ref = actor.broadcast.remote(trip.shared, list(chunk))
        else:
            parcel = Parcel({client: trip.outbox[client] for client in chunk})
            ref = actor.handle.remote(as_raw(parcel.to_bytes()))
        trip.waiting[ref] = (host, chunk)

    def _receive(self, ref: Any, trip: _Trip) -> None:
        """Takes what a host has sent, or that it is lost, and keeps it busy."""
        host, chunk = trip.waiting.pop(ref)
        try:
            parcel = Parcel.read(as_frame(ray.get(ref, timeout=self._deadline)))
        except RayError as error:
            cause = cause_of(error)
            if not isinstance(cause, HostLost):
                raise cause from error
            trip.go_without(set(chunk), f"host {host}: {cause}")
        else:
            trip.take(parcel)
            if trip.stage is Stage.TRAIN and host in self._warm:
                self._costs.learn(chunk, parcel.seconds)
            self._warm.add(host)  # its first chunk took what it took to warm up
        self._submit(host, trip)

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

    def recover(self) -> None:
        """Waits until every host answers again: a dead or hung one is started anew by Ray.

        Raises:
            ClusterError: a host does not come back before the deadline.
        """
        self._place.clear()
        self._warm.clear()
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


def _shared(outbox: Frames) -> Any | None:
    """The large frame that everyone gets, put into the object store once; else None."""
    first = next(iter(outbox.values()))
    if len(first) < INLINE or any(frame is not first for frame in outbox.values()):
        return None
    return ray.put(np.frombuffer(first, dtype=np.uint8))


def _plain(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame)
