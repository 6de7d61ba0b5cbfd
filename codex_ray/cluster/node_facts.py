"""What a node of a cluster says of itself: its software, its GPUs, and how it keeps its keys."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.preflight import keys_from
from codex_ray.cluster.strangers import NODE_METHOD, Answer, knock, reachable

PATIENCE: Final = 60.0
"""Seconds that a node has to start a process and answer."""
SOFTWARE: Final = ("ray", "torch", "numpy", "codex-ray")
"""What must be the same everywhere, next to Python, for results that are the same everywhere."""


@dataclass(frozen=True)
class NodeFacts:
    """One node.

    Attributes:
        address: by which Ray calls it.
        cpus: that Ray may give to actors; 0 on a head that carries no clients.
        gpus: the same.
        memory: bytes that Ray may give to actors.
        store: bytes of its object store.
        shared: bytes of shared memory that the machine has for the store.
        versions: of Python and what matters, "none" where something is not installed.
        gpu_names: as torch names those that it sees.
        processor: what bits may depend on.
        problems: what is open or broken about it, each with its remedy.
    """

    address: str
    cpus: float
    gpus: float
    memory: float
    store: float
    shared: float = 0.0
    versions: tuple[tuple[str, str], ...] = ()
    gpu_names: tuple[str, ...] = ()
    processor: str = ""
    problems: tuple[str, ...] = ()

    @classmethod
    def asked(cls, node: dict[str, Any], *, insecure_local: bool) -> Self:
        """What the node of an entry of `ray.nodes()` says."""
        have, address = node["Resources"], str(node["NodeManagerAddress"])
        on_it = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        problems: tuple[str, ...] = ()
        found: dict[str, Any] = {}
        try:
            task = _facts.options(scheduling_strategy=on_it, num_cpus=0)
            found = ray.get(task.remote(), timeout=PATIENCE)
            problems = () if insecure_local else tuple(found.pop("problems"))
        except RayError as error:
            problems = (
                f"cannot run codex_ray ({cause_of(error)}): install it there as here, or use the "
                "image of the Dockerfile",
            )
        found.pop("problems", None)
        if not insecure_local:
            problems += _of_ports(
                address,
                raylet=int(node["NodeManagerPort"]),
                objects=int(node["ObjectManagerPort"]),
            )
        return cls(
            address=address,
            cpus=float(have.get("CPU", 0.0)),
            gpus=float(have.get("GPU", 0.0)),
            memory=float(have.get("memory", 0.0)),
            store=float(have.get("object_store_memory", 0.0)),
            problems=problems,
            **found,
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {"versions": dict(self.versions)}


def facts_here() -> dict[str, Any]:
    """What this process says of the machine that it runs on."""
    from codex_ray.records.machine import gpu_names, processor  # with torch, which is slow

    shared = os.statvfs("/dev/shm") if Path("/dev/shm").exists() else None
    return {
        "versions": (("python", platform.python_version()), *[(n, _version(n)) for n in SOFTWARE]),
        "gpu_names": gpu_names(),
        "shared": 0.0 if shared is None else float(shared.f_blocks * shared.f_frsize),
        "processor": processor(),
        "problems": keys_from().problems,
    }


_facts = ray.remote(facts_here)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _of_ports(address: str, *, raylet: int, objects: int) -> tuple[str, ...]:
    """What is wrong with how a node's own ports answer a stranger."""
    remedy = "open it between the nodes, see the table in docs/security.md"
    answer = knock(address, raylet, files=keys_from().files, method=NODE_METHOD)
    problems = []
    if answer is Answer.WELCOME:
        problems.append(f"its port {raylet} demands no token: start it with RAY_AUTH_MODE=token")
    elif answer is not Answer.TOKEN:
        problems.append(f"its port {raylet} is not reached from here ({answer.value}): {remedy}")
    if not reachable(address, objects):
        problems.append(f"its port {objects} for objects is not reached from here: {remedy}")
    return tuple(problems)
