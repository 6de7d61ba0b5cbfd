"""Ray actors whose clients have something to sum and nothing to train: to measure protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import ray

from codex_ray.cluster.session import ray_session
from codex_ray.cluster.transport import RayTransport, await_ready
from codex_ray.experiment import long_lived
from codex_ray.federation.bare_sums import SumHost
from codex_ray.federation.federation import Federation
from codex_ray.federation.transport import work_here

DEADLINE = 600.0


class SumHostServer:
    """A `SumHost` in a process of its own, fed with bytes."""

    def __init__(self, federation: str, dimension: int) -> None:
        long_lived()
        protocol = Federation.model_validate_json(federation).protocol
        self._host = SumHost(protocol, dimension=dimension)

    def ready(self) -> bool:
        """True, once the host is built."""
        return True

    def handle(self, frames: dict[int, bytes]) -> dict[int, bytes]:
        """Each client's reply to its own frame."""
        return self._host.handle(frames)

    def broadcast(self, frame: npt.NDArray[np.uint8], clients: list[int]) -> dict[int, bytes]:
        """Each client's reply to one frame for all of them, which the object store shares."""
        return self._host.handle(dict.fromkeys(clients, frame.data))

    def work(self, task: bytes) -> bytes:
        """The result of a piece of the server's own work, which no client has a part in."""
        return work_here(task)


SumHostActor = ray.remote(SumHostServer)


@contextmanager
def sum_hosts(
    federation: Federation, *, hosts: int, clients: int, dimension: int
) -> Iterator[RayTransport]:
    """A transport to `clients` clients on Ray actors of a Ray of its own, all ready."""
    with ray_session("local"):
        share = min(1.0, ray.cluster_resources()["CPU"] / hosts)
        spec = federation.model_dump_json()
        actors = [
            SumHostActor.options(num_cpus=share).remote(spec, dimension) for _ in range(hosts)
        ]
        transport = RayTransport(actors, population=clients, deadline=DEADLINE)
        await_ready(actors, deadline=DEADLINE)
        try:
            yield transport
        finally:
            transport.close()
