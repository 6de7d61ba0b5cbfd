"""The seam over Ray: chunks of clients, two in flight a host, every wait with a deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from codex_ray.errors import ClusterError, CodexRayError, HostLost
from codex_ray.federation.transport import Frames
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

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The clients' replies, in the order in which hosts finish.

        Raises:
            HostLost: a host died, or was silent past the deadline, before the survivor set was
            final.
        """
        self.lost = frozenset()
        if not outbox:
            return {}
        stage = kind_of(next(iter(outbox.values()))).stage
        chunks = self._chunks(sorted(outbox), stage)
        shared = self._shared(outbox)
        inbox: dict[ClientId, bytes] = {}
        waiting: dict[Any, tuple[int, _Chunk]] = {}
        todo = {h: deque(c for c in chunks if c.host == h) for h in range(len(self._hosts))}
        free = deque(c for c in chunks if c.host is None)
        for _ in range(IN_FLIGHT):
            for host in todo:
                self._submit(host, todo[host], free, outbox, shared, waiting)
        lost: set[ClientId] = set()
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=self._deadline)
            if not done:  # every host that still owes something has been silent for so long
                self._silent |= {host for host, _ in waiting.values()}
                reason = f"hosts {sorted(self._silent)} gave no answer for {self._deadline:g} s"
                lost |= self._give_up(stage, reason, waiting, todo)
                break
            for ref in done:
                host, chunk = waiting.pop(ref)
                try:
                    inbox |= ray.get(ref, timeout=self._deadline)
                except RayError as error:
                    cause = cause_of(error)
                    if not isinstance(cause, HostLost):
                        raise cause from error
                    lost |= self._give_up(stage, f"host {host}: {cause}", {ref: (host, chunk)}, {})
                self._submit(host, todo[host], free, outbox, shared, waiting)
        self.lost = frozenset(lost)
        return inbox

    def _give_up(
        self,
        stage: Stage,
        reason: str,
        waiting: dict[Any, tuple[int, _Chunk]],
        todo: dict[int, deque[_Chunk]],
    ) -> set[ClientId]:
        """The clients whose hosts are lost, when the round can only go on without them.

        From the first unmask request on the survivor set is final: there is no second try.

        Raises:
            HostLost: it is not final yet.
        """
        if stage < Stage.UNMASK:
            raise HostLost(reason)
        chunks = [chunk for _, chunk in waiting.values()]
        chunks += [chunk for queue in todo.values() for chunk in queue]
        return {client for chunk in chunks for client in chunk.clients}

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

    def _shared(self, outbox: Frames) -> Any | None:
        """The large frame that everyone gets, put into the object store once; else None."""
        first = next(iter(outbox.values()))
        if len(first) < INLINE or any(frame is not first for frame in outbox.values()):
            return None
        return ray.put(np.frombuffer(first, dtype=np.uint8))

    def _submit(
        self,
        host: int,
        own: deque[_Chunk],
        free: deque[_Chunk],
        outbox: Frames,
        shared: Any | None,
        waiting: dict[Any, tuple[int, _Chunk]],
    ) -> None:
        """Gives the host its next chunk, if there is one for it."""
        if not own and not free:
            return
        chunk = own.popleft() if own else free.popleft()
        for client in chunk.clients:
            self._place[client] = host
        actor = self._hosts[host]
        if shared is not None:
            ref = actor.broadcast.remote(shared, list(chunk.clients))
        else:
            ref = actor.handle.remote({c: _plain(outbox[c]) for c in chunk.clients})
        waiting[ref] = (host, chunk)

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


def _plain(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame)
