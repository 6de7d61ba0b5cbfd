"""The Ray actor that carries clients: a `Host` in a process of its own, fed with bytes."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import numpy.typing as npt
import ray

from codex_ray.config import experiment_from
from codex_ray.experiment import assemble, long_lived
from codex_ray.federation.transport import work_here


class HostServer:
    """Builds its own host from the experiment's text: no model, data or key ever travels to it.

    With `seed: null` its secrets come from the operating system of the machine that it runs on, and
    stay in its memory.
    """

    def __init__(self, experiment: str, paths: list[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        long_lived()
        self._host = assemble(experiment_from(json.loads(experiment))).host()

    def ready(self) -> bool:
        """True, once the host is built."""
        return True

    def pid(self) -> int:
        """The process that the host runs in."""
        return os.getpid()

    def handle(self, frames: dict[int, bytes]) -> dict[int, bytes]:
        """Each client's reply to its own frame."""
        return self._host.handle(frames)

    def broadcast(self, frame: npt.NDArray[np.uint8], clients: list[int]) -> dict[int, bytes]:
        """Each client's reply to one frame for all of them, which the object store shares."""
        return self._host.handle(dict.fromkeys(clients, frame.data))

    def work(self, task: bytes) -> bytes:
        """The result of a piece of the server's own work, which no client has a part in."""
        return work_here(task)


HostActor = ray.remote(max_restarts=-1, max_task_retries=0)(HostServer)
