"""The Ray actor that carries clients: a `Host` in a process of its own, fed with bytes.

Importing this file does without torch, as the driver and the coordinator do while they start hosts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ray

from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Carrier, Frames, work_here
from codex_ray.threads import import_torch_alone, importing, long_lived
from codex_ray.wire import Frame

Raw: TypeAlias = bytes | npt.NDArray[np.uint8]
"""Bytes on their way: a large piece as an array, which Ray shares instead of copying it."""
INLINE = 100_000
"""Bytes from which Ray puts a piece into its object store."""


class CarrierServer:
    """What every host actor does: it answers for the clients that it carries."""

    def __init__(self, carrier: Carrier) -> None:
        """Answers with the carrier's replies."""
        self._carrier = carrier

    def ready(self) -> bool:
        """True, once the host is built."""
        return True

    def pid(self) -> int:
        """The process that the host runs in."""
        return os.getpid()

    def handle(self, parcel: Raw) -> Raw:
        """A parcel of the clients' replies to a parcel of frames."""
        return self._replies(Parcel.read(as_frame(parcel)).frames)

    def broadcast(self, frame: npt.NDArray[np.uint8], clients: list[int]) -> Raw:
        """The same for one frame that is for all of them, which the object store shares."""
        return self._replies(dict.fromkeys(clients, frame.data))

    def work(self, task: bytes) -> bytes:
        """The result of a piece of the server's own work, which no client has a part in."""
        return work_here(task)

    def _replies(self, frames: Frames) -> Raw:
        began = time.perf_counter()
        replies = self._carrier.handle(frames)
        return as_raw(Parcel(replies, time.perf_counter() - began).to_bytes())


class HostServer(CarrierServer):
    """Builds its own host from the experiment's text: no model, data or key ever travels to it.

    With `seed: null` its secrets come from the operating system of the machine that it runs on, and
    stay in its memory.
    """

    def __init__(self, experiment: str, paths: list[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        spec = json.loads(experiment)
        with importing():
            if only_ours(spec):
                import_torch_alone()
            from codex_ray.assembly import assemble
            from codex_ray.config import experiment_from
        long_lived()
        super().__init__(assemble(experiment_from(spec)).host())


def only_ours(spec: Mapping[str, Any]) -> bool:
    """Whether only code of this package computes in an experiment's mapping, no factory of others.

    Then torch may come without its tables.
    """
    parts = [spec.get(part) for part in ("model", "data")]
    return all(isinstance(part, Mapping) and part.get("kind") != "python" for part in parts)


def as_raw(piece: bytes) -> Raw:
    """The piece in the form in which Ray copies it least."""
    return piece if len(piece) < INLINE else np.frombuffer(piece, dtype=np.uint8)


def as_frame(raw: Raw) -> Frame:
    """The bytes of what came, without a copy."""
    return raw if isinstance(raw, bytes) else raw.data


HostActor = ray.remote(max_restarts=-1, max_task_retries=0)(HostServer)
