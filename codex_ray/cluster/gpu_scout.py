"""What a host will need of a GPU: one is built on a whole GPU, and does a round's work once.

It trains as many clients as a host works on at a time, those with the most records, exactly as a
host does, and tells what that took.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from codex_ray.cluster.causes import cause_of
from codex_ray.data.stand_in import stand_in
from codex_ray.errors import ClusterError
from codex_ray.federation.messages import TrainTask

if TYPE_CHECKING:
    from codex_ray.assembly import Assembled
    from codex_ray.experiment import Experiment
    from codex_ray.learning.device_memory import Footprint


class ScoutServer:
    """A process with a GPU of its own."""

    def footprint(self, spec: str, paths: list[str], *data: Any) -> dict[str, int]:
        """What a host of an experiment, given as JSON, has needed for its part of a round.

        Args:
            spec: the experiment.
            paths: where it finds Python modules.
            data: the data set as plain arrays, where those are shared.
        """
        sys.path += [path for path in paths if path not in sys.path]
        from dataclasses import asdict

        from codex_ray.assembly import assemble
        from codex_ray.cluster.shared_data import shared
        from codex_ray.config import experiment_from
        from codex_ray.learning.device_memory import Footprint

        experiment = experiment_from(json.loads(spec))
        with shared(experiment, data):
            assembled = assemble(experiment)
        work_a_round(assembled)
        return asdict(Footprint.measured())


Scout = ray.remote(num_cpus=0, num_gpus=1, max_restarts=0)(ScoutServer)


def work_a_round(assembled: Assembled) -> int:
    """Has a host train what one host trains in a round, and returns how many clients that were."""
    # What memory it takes depends on no value.
    assembled = replace(assembled, dataset=stand_in(assembled.dataset))
    experiment, dataset = assembled.experiment, assembled.dataset
    cohort = experiment.federation.sampler.expected(dataset.population)
    most = math.ceil(cohort / max(1, experiment.cluster.hosts))
    count = max(1, min(dataset.population, max(most, experiment.plan.plan.clients)))
    sizes: Sequence[int] = getattr(dataset, "sizes", range(0, -dataset.population, -1))
    clients = sorted(range(dataset.population), key=lambda client: -sizes[client])[:count]
    task = TrainTask(bytes(16), 0, 0, assembled.initial.numpy()).to_frame()
    assembled.host().handle(dict.fromkeys(clients, task))
    return len(clients)


def footprint_of(
    experiment: Experiment, spec: str, paths: Sequence[str], data: Sequence[Any]
) -> Footprint:
    """What one host of the experiment needs of a GPU, measured on one of the cluster's.

    Raises:
        ClusterError: no GPU is free before the deadline, or the work does not fit on a whole one.
    """
    from codex_ray.learning.device_memory import Footprint

    scout = Scout.remote()
    try:
        asked = scout.footprint.remote(spec, list(paths), *data)
        return Footprint(**ray.get(asked, timeout=experiment.cluster.deadline))
    except GetTimeoutError:
        raise ClusterError(
            f"no GPU was free within {experiment.cluster.deadline:g} s to measure on what a host "
            "needs: wait for other runs, or add nodes"
        ) from None
    except RayError as error:
        raise ClusterError(f"a host cannot work on a whole GPU: {cause_of(error)}") from error
    finally:
        ray.kill(scout)
