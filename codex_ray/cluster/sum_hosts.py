"""Ray actors whose clients have something to sum and nothing to train: to measure protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import ray

from codex_ray.cluster.hosts import CarrierServer
from codex_ray.cluster.session import ray_session
from codex_ray.cluster.transport import RayTransport
from codex_ray.federation.bare_sums import SumHost
from codex_ray.federation.federation import Federation
from codex_ray.threads import long_lived

DEADLINE = 600.0


class SumHostServer(CarrierServer):
    """A `SumHost` in a process of its own, fed with bytes."""

    def __init__(self, federation: str, dimension: int) -> None:
        long_lived()
        protocol = Federation.model_validate_json(federation).protocol
        super().__init__(partial(SumHost, protocol, dimension=dimension))


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
        transport.wait()
        try:
            yield transport
        finally:
            transport.close()
