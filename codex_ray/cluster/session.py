"""A Ray session for one run: started closed to strangers, left as it was found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from codex_ray.cluster.coordinator import Coordinator, read_round
from codex_ray.cluster.transport import cause_of
from codex_ray.config import resolved
from codex_ray.errors import ClusterError, HostLost
from codex_ray.experiment import Experiment
from codex_ray.federation.state import RoundResult
from codex_ray.records.run_directory import RunDirectory


@contextmanager
def ray_session(address: str) -> Iterator[None]:
    """A Ray that is ready to use; one that was running before is still running afterwards.

    Raises:
        ClusterError: there is no cluster at `address`, or it does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address == "local":
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=512 * 2**20,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cluster.address {address}: no Ray cluster lets us in there ({error}): start one with "
            '`ray start --head`, give it and us the same token, or use "local"'
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def cluster_gpus() -> float:
    """How many GPUs the cluster has."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def _here() -> Any:
    """This node; inside a placement group its first bundle, and the hosts in the others.

    A trial of a sweep is such a group: it holds all that its hosts need before it begins.
    """
    group = get_current_placement_group()
    if group is None:
        node = ray.get_runtime_context().get_node_id()
        return NodeAffinitySchedulingStrategy(node, soft=False)
    return PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )


def ray_rounds(experiment: Experiment, directory: RunDirectory) -> Iterator[RoundResult | None]:
    """Each round's result from a coordinator actor; first None, when every host is ready.

    It is for the inside of a `ray_session`. The coordinator runs on this node, because the run
    directory is here.
    """
    paths = [str(Path.cwd()), *[path for path in sys.path if path]]
    coordinator = Coordinator.options(scheduling_strategy=_here()).remote()
    try:
        stream = coordinator.run.options(num_returns="streaming").remote(
            str(directory.path.resolve()), json.dumps(resolved(experiment)), paths
        )
        for ref in stream:
            line = ray.get(ref)
            yield read_round(line) if line else None
    except RayError as error:
        cause = cause_of(error)
        if isinstance(cause, HostLost):
            raise ClusterError(
                f"the coordinator was lost ({cause}): codex-ray run --resume {directory.path}"
            ) from error
        raise cause from error
    finally:
        ray.kill(coordinator)
