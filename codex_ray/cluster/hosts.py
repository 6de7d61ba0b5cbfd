"""The Ray actor that carries clients: a `Host` in a process of its own, fed with bytes.

Importing this file does without torch, as the driver and the coordinator do while they start hosts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ray

from codex_ray.cluster.inherited import inline_bytes
from codex_ray.errors import HostLost
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Carrier, Frames, work_here
from codex_ray.threads import import_torch_alone, importing, long_lived
from codex_ray.wire import Frame

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment

Raw: TypeAlias = bytes | npt.NDArray[np.uint8]
"""Bytes on their way: a large piece as an array, which Ray shares instead of copying it."""


class CarrierServer:
    """What every host actor does: it answers for the clients that it carries, on a ticket.

    Whoever gives it work names the ticket that it was called up with. What was asked for on an
    earlier one, by a coordinator that is lost or before the host was thought to be, may arrive
    late. It is not done: it would train clients of the attempt that is under way.
    """

    def __init__(self, carrier: Callable[[], Carrier]) -> None:
        """Answers with the replies of a carrier, of which every ticket has a new one."""
        self._new = carrier
        self._carrier = carrier()
        self._ticket = 0

    def ready(self, ticket: int = 0) -> bool:
        """True, once the host is built; from here on it works on this ticket.

        A carrier that has worked on another gives way to a new one, who knows of no client's keys.
        """
        if ticket > self._ticket:
            self._carrier, self._ticket = self._new(), ticket
        return True

    def pid(self) -> int:
        """The process that the host runs in."""
        return os.getpid()

    def handle(self, ticket: int, parcel: Raw) -> Raw:
        """A parcel of the clients' replies to a parcel of frames.

        Raises:
            HostLost: it works on another ticket: it was started anew, or this one is old.
        """
        self._check(ticket)
        return self._replies(Parcel.read(as_frame(parcel)).frames)

    def broadcast(
        self, ticket: int, clients: list[list[int]], *frames: npt.NDArray[np.uint8]
    ) -> Raw:
        """The same for frames that the object store shares, each for those `clients` of its own."""
        self._check(ticket)
        views = [frame.data for frame in frames]  # one object for all who get it
        given = zip(clients, views, strict=True)
        return self._replies({client: view for some, view in given for client in some})

    def work(self, task: bytes) -> bytes:
        """The result of a piece of the server's own work, which no client has a part in."""
        return work_here(task)

    def _check(self, ticket: int) -> None:
        if ticket != self._ticket:
            raise HostLost("it was started anew" if ticket > self._ticket else "its ticket is old")

    def _replies(self, frames: Frames) -> Raw:
        began = time.perf_counter()
        replies = self._carrier.handle(frames)
        return as_raw(Parcel(replies, time.perf_counter() - began).to_bytes())


class HostServer(CarrierServer):
    """Builds its own host from the experiment's text: no model, data or key ever travels to it.

    With `seed: null` its secrets come from the operating system of the machine that it runs on, and
    stay in its memory.
    """

    def __init__(
        self,
        experiment: str,
        paths: list[str],
        limit: float | None = None,
        *data: Mapping[str, Any],
    ) -> None:
        """A host of the experiment's clients.

        Args:
            experiment: as JSON.
            paths: where it finds Python modules.
            limit: the part of its GPU's memory that its tensors may take; None without a GPU.
            data: its data set as plain arrays, where those are shared; else it opens its own.
        """
        of = experiment_there(experiment, paths)
        from codex_ray.assembly import assemble
        from codex_ray.cluster.shared_data import shared

        if limit is not None:
            from codex_ray.learning.device_memory import keep_within

            keep_within(limit)
        with shared(of, data):
            assembled = assemble(of)
        super().__init__(assembled.host)


def experiment_there(experiment: str, paths: list[str]) -> Experiment:
    """The experiment of this JSON, in a process that has just begun and computes for it from here.

    Args:
        experiment: as JSON.
        paths: where Python modules are found.
    """
    sys.path += [path for path in paths if path not in sys.path]
    spec = json.loads(experiment)
    with importing():
        if only_ours(spec):
            import_torch_alone()
        import codex_ray.assembly  # noqa: F401  # torch comes with it
        from codex_ray.config import experiment_from
    long_lived()
    return experiment_from(spec)


def only_ours(spec: Mapping[str, Any]) -> bool:
    """Whether only code of this package computes in an experiment's mapping, no factory of others.

    Then torch may come without its tables.
    """
    parts = [spec.get(part) for part in ("model", "data")]
    return all(isinstance(part, Mapping) and part.get("kind") != "python" for part in parts)


def as_raw(piece: bytes) -> Raw:
    """The piece in the form in which Ray copies it least."""
    return piece if len(piece) < inline_bytes() else np.frombuffer(piece, dtype=np.uint8)


def as_frame(raw: Raw) -> Frame:
    """The bytes of what came, without a copy."""
    return raw if isinstance(raw, bytes) else raw.data


HostActor = ray.remote(max_restarts=-1, max_task_retries=0)(HostServer)
