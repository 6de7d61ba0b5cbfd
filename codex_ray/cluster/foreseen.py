"""What an experiment will put on a cluster: hosts, shares of CPUs and GPUs, and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from codex_ray.assembly import assemble
from codex_ray.cluster.crew import room_for, share_of
from codex_ray.cluster.node_facts import NodeFacts
from codex_ray.experiment import Experiment

PROCESS: Final = 240 * 2**20
"""Bytes of a host before it has a model: Python, Ray and torch (measured: 238 MiB on a CPU)."""


@dataclass(frozen=True)
class Foreseen:
    """What one experiment needs of a cluster, and whether it has that.

    Attributes:
        hosts: Ray actors that carry the clients.
        cpus: the share of each.
        gpus: the same, at the most: a run measures first what one needs of a GPU.
        room: by node, hosts that fit on it by these shares.
        clients: that a host trains in a round, on average.
        broadcast: bytes that go to every node in a round.
        host_bytes: of memory that a host takes at the most: its process, the model, and the words
            of every client that it has trained, until they are summed.
        problems: what does not fit, each with its remedy.
    """

    hosts: int
    cpus: float
    gpus: float
    room: tuple[tuple[str, int], ...]
    clients: int
    broadcast: int
    host_bytes: int
    problems: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment, nodes: Sequence[NodeFacts]) -> Foreseen:
        """What the experiment puts on these nodes; its data and its model are opened for it."""
        hosts, reserved = experiment.cluster.hosts, experiment.cluster.at_least
        assembled = assemble(experiment)
        population = assembled.dataset.population
        size = len(assembled.initial)
        cohort = experiment.federation.sampler.expected(population)
        clients = math.ceil(cohort / max(1, hosts))
        word = 4 if assembled.codec.bits <= 32 else 8
        have = [node.gpus for node in nodes]
        device = experiment.plan.device
        wanted = device.startswith("cuda") or (device == "auto" and any(have))
        gpus = share_of(have, reserved) if hosts and wanted else 0.0
        places = [room_for(gpus, count) for count in have] if gpus else None
        cpus = share_of([node.cpus for node in nodes], reserved, room=places) if hosts else 0.0
        room = tuple((node.address, _room(node, cpus=cpus, gpus=gpus)) for node in nodes)
        host_bytes = PROCESS + size * (4 + clients * word)
        found = cls(hosts, cpus, gpus, room, clients, 4 * size, host_bytes, ())
        problems = found._problems(nodes, on_gpu=wanted)
        return cls(hosts, cpus, gpus, room, clients, 4 * size, host_bytes, tuple(problems))

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"room": dict(self.room)}

    def _problems(self, nodes: Sequence[NodeFacts], *, on_gpu: bool) -> list[str]:
        if not self.hosts:
            return ["cluster.hosts is 0, which runs without Ray: set it to the hosts that you want"]
        problems = []
        if not any(node.cpus for node in nodes):
            problems.append("no node has a CPU for hosts: add nodes, or start one with --num-cpus")
        elif not self.cpus:
            problems.append(f"{self.hosts} hosts do not fit: lower cluster.hosts, or add nodes")
        if on_gpu and not self.gpus:
            problems.append("the plan trains on a GPU, and no node has one: set plan.device cpu")
        for node, (_, room) in zip(nodes, self.room, strict=True):
            if node.store and room and self.broadcast > node.store / 2:
                problems.append(
                    f"{node.address}: a model of {self.broadcast / 2**20:.0f} MiB needs an object "
                    f"store of twice that, and it has {node.store / 2**20:.0f} MiB: start it with "
                    "--object-store-memory"
                )
            on_it = min(room, self.hosts)
            if node.memory and on_it * self.host_bytes > node.memory:
                problems.append(
                    f"{node.address}: {on_it} hosts may take {on_it * self.host_bytes / 2**30:.1f} "
                    f"GiB, and it has {node.memory / 2**30:.1f}: lower cluster.hosts, or add nodes"
                )
        return problems


def _room(node: NodeFacts, *, cpus: float, gpus: float) -> int:
    """How many hosts of these shares fit on a node, as Ray counts: in ten-thousandths."""
    fits = [
        round(have * 10_000) // round(share * 10_000)
        for have, share in ((node.cpus, cpus), (node.gpus, gpus))
        if share
    ]
    return min(fits, default=0)
