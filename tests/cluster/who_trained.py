"""A driver that tells after each round on which hosts and nodes its clients were, as lines of JSON.

    python who_trained.py EXPERIMENT ADDRESS [WAIT]

After round WAIT it prints "more", and goes on when it has read a line and all hosts are built.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import ray

from codex_ray.assembly import assemble
from codex_ray.cluster.crew import Crew
from codex_ray.cluster.processes import processes
from codex_ray.cluster.session import ray_session
from codex_ray.cluster.transport import RayTransport
from codex_ray.config import experiment_from, load_yaml
from codex_ray.federation.run import Run
from codex_ray.federation.state import ServerState
from codex_ray.records.result import parameters_sha256
from codex_ray.threads import single_thread


class Forgetting:
    """Keeps nothing: this run is not killed."""

    def save(self, state: ServerState) -> None:
        """Does nothing."""


def drive(file: Path, address: str, wait: int) -> None:
    """Runs the experiment on the cluster, and tells of it."""
    experiment = experiment_from(load_yaml(file))
    single_thread()
    with ray_session(address), closing(Crew.start(experiment, [])) as crew:
        assembled = assemble(experiment)
        transport = RayTransport(
            crew.hosts,
            population=assembled.dataset.population,
            deadline=experiment.cluster.deadline,
            another=crew.another,
        )
        transport.wait(at_least=experiment.cluster.at_least)
        run = Run(
            round=assembled.round(transport),
            rounds=experiment.rounds,
            evaluate=assembled.evaluate,
            evaluate_every=experiment.evaluate_every,
            journal=Forgetting(),
            replayable=True,
        )
        last = assembled.first_state()
        for last, result in run.results(last):  # noqa: B007, B020  # kept for its end
            used = sorted(set(transport.places.values()))
            raylets = {host: _raylet_of(crew.hosts[host]) for host in used}
            told = {"round": result.round, "attempts": result.attempts, "raylets": raylets}
            print(json.dumps(told), flush=True)
            if result.round == wait:
                print(json.dumps("more"), flush=True)
                sys.stdin.readline()
                ray.get([host.ready.remote() for host in crew.hosts], timeout=120)
        print(json.dumps({"model": parameters_sha256(last.params)}), flush=True)


def _raylet_of(host: object) -> int:
    """The process that began the host's: there is one on each node."""
    return processes()[ray.get(host.pid.remote(), timeout=60)].parent  # type: ignore[attr-defined]


if __name__ == "__main__":
    drive(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else -1)
