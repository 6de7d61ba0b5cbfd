"""The coordinator actor: it owns the hosts, runs the rounds, and never sees an update."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from codex_ray.cluster.hosts import HostActor, only_ours
from codex_ray.cluster.packing import Costs
from codex_ray.cluster.transport import RayTransport, await_ready
from codex_ray.errors import ClusterError
from codex_ray.records.run_directory import RunDirectory
from codex_ray.threads import import_torch_alone, importing, long_lived

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.federation.state import RoundResult


class CoordinatorServer:
    """Runs the experiment of a run directory, and tells of each round as a line of JSON."""

    def run(self, directory: str, placement: str, paths: list[str], gpu: str) -> Iterator[str]:
        """One JSON line for each round, after it is persisted; before the first, an empty line.

        Args:
            directory: the run directory, as this node sees it.
            placement: the experiment as JSON; only its `cluster` may differ from the directory's.
            paths: where the driver finds Python modules.
            gpu: the device of a plan that trains on a GPU; else nothing.
        """
        sys.path += [path for path in paths if path not in sys.path]
        spec = json.loads(placement)
        # First of all: they build themselves while this process imports torch and does the same.
        hosts = host_actors(placement, paths, hosts=spec["cluster"]["hosts"], gpu=gpu)
        with importing():
            if only_ours(spec):
                import_torch_alone()
            import dp_accounting  # noqa: F401  # round 0 needs it, and then nobody else has work

            from codex_ray.assembly import assemble
            from codex_ray.config import experiment_from
            from codex_ray.data.in_memory import InMemory
            from codex_ray.running import rounds
        long_lived()
        experiment = experiment_from(spec)
        assembled = assemble(experiment)
        dataset = assembled.dataset
        sizes = dataset.sizes if isinstance(dataset, InMemory) else None  # others make theirs
        transport = RayTransport(
            hosts,
            population=dataset.population,
            deadline=experiment.cluster.deadline,
            costs=Costs(dataset.population, records=sizes),
            together=experiment.plan.plan.clients,
        )
        await_ready(hosts, deadline=experiment.cluster.deadline)
        yield ""
        for result in rounds(assembled, RunDirectory.open(Path(directory)), transport):
            yield json.dumps(result.to_json())


Coordinator = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(CoordinatorServer)


def start_hosts(experiment: Experiment, paths: list[str]) -> list[object]:
    """The host actors of the experiment.

    Raises:
        ClusterError: the cluster has no CPU at all, or no GPU for a plan that trains on one.
    """
    from codex_ray.config import resolved

    spec = json.dumps(resolved(experiment))
    return host_actors(spec, paths, hosts=experiment.cluster.hosts, gpu=gpu_of(experiment))


def gpu_of(experiment: Experiment) -> str:
    """The device of its plan, if that is a GPU; else nothing."""
    return experiment.plan.device if experiment.plan.plan.on_gpu else ""


def host_actors(spec: str, paths: list[str], *, hosts: int, gpu: str) -> list[object]:
    """So many host actors, sharing the cluster's CPUs evenly, and its GPUs if they train on one.

    Args:
        spec: the experiment as JSON.
        paths: where hosts find Python modules.
        hosts: how many.
        gpu: the device of a plan that trains on a GPU; else nothing.

    Raises:
        ClusterError: the cluster has no CPU at all, or no GPU for a plan that trains on one.
    """
    have = ray.cluster_resources()
    shares = {"num_cpus": share_of(have.get("CPU", 0.0), hosts)}
    if not shares["num_cpus"]:
        raise ClusterError(
            "the cluster has no CPU for hosts: start it with --num-cpus or add nodes"
        )
    if gpu:
        shares["num_gpus"] = share_of(have.get("GPU", 0.0), hosts)
        if not shares["num_gpus"]:
            raise ClusterError(
                f"plan.device is {gpu}, but the cluster has no GPU: add a node "
                "that has one, or start a new run with plan.device cpu"
            )
    return [HostActor.options(**shares).remote(spec, paths) for _ in range(hosts)]


def share_of(total: float, hosts: int) -> float:
    """What each of so many hosts gets of something, in hundredths; one at the most."""
    return min(1.0, int(100 * total / hosts) / 100)


def read_round(line: str) -> RoundResult:
    """The round that a line of the coordinator tells of."""
    from codex_ray.federation.state import RoundResult

    return RoundResult(**json.loads(line))
