"""A run on a cluster that is reached as ray://: its driver works there, and the run comes home.

A driver at the far end of a Ray Client could neither place a coordinator beside the run directory
nor be lost without it. So the driver is an actor of the cluster, with a run directory there, and
this process only watches it. Data files are read there too. What comes back is sealed on the way,
as a job's run is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ray
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.coordinator import read_round
from codex_ray.cluster.packed_run import packed, unpack
from codex_ray.cluster.session import ray_session
from codex_ray.errors import ClusterError
from codex_ray.records.run_directory import RunDirectory

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.federation.state import RoundResult
    from codex_ray.records.result import RunResult

THERE: Final = "codex_ray_runs"
"""The folder of runs, in the home of whoever the cluster runs as."""
LOOK: Final = 1.0
"""Seconds between two questions for news."""


class DriverServer:
    """Runs an experiment in a process of the cluster, and tells what became of its rounds."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def run(self, spec: str, name: str) -> str:
        """Where the finished run is, on this node.

        Args:
            spec: the experiment as JSON.
            name: of the run directory.

        Raises:
            CodexRayError: whatever ends the run.
        """
        from codex_ray.api import run

        def watch(result: RoundResult | None) -> None:
            self._told.append("" if result is None else json.dumps(result.to_json()))

        out = Path.home() / THERE / name
        return run(json.loads(spec), {"cluster.address": "auto"}, out=out, watch=watch).directory

    def told(self, since: int) -> list[str]:
        """What there is to tell from the line `since` on; an empty one: hosts are ready."""
        return self._told[since:]

    def packed(self, directory: str, reader: bytes) -> str:
        """A run directory of this node as text that only the holder of a private key can read."""
        return packed(Path(directory), reader)


Driver = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)(DriverServer)


def run_there(
    experiment: Experiment, out: Path, watch: Callable[[RoundResult | None], None] | None
) -> RunResult:
    """The result of an experiment that runs on the cluster of its ray:// address.

    Args:
        experiment: its cluster is reached through the server for clients of a head.
        out: where its run directory is written in the end.
        watch: called with each round's result, and with None when the hosts are ready.

    Raises:
        RunDirectoryError: there is something in `out`.
        ClusterError: the cluster does not let us in, or the driver was lost.
        CodexRayError: whatever ends the run.
    """
    from codex_ray.config import resolved
    from codex_ray.records.result import RunResult

    RunDirectory.check_free(out)
    cluster = experiment.cluster
    name = f"{experiment.name}-{secrets.token_hex(4)}"
    with ray_session(cluster.address, insecure_local=cluster.insecure_local) as overlooked:
        driver = Driver.remote()
        try:
            done = driver.run.remote(json.dumps(resolved(experiment)), name)
            heard, ended = 0, False
            while not ended:
                ended = bool(ray.wait([done], timeout=LOOK)[0])
                for line in ray.get(driver.told.remote(heard), timeout=cluster.deadline):
                    heard += 1
                    if watch is not None:
                        watch(read_round(line) if line else None)
            where = ray.get(done)
            key = X25519PrivateKey.generate()
            reader = key.public_key().public_bytes_raw()
            text = ray.get(driver.packed.remote(where, reader), timeout=cluster.deadline)
            unpack(text, out, key)
        except GetTimeoutError:
            raise ClusterError(
                f"nothing came from the driver on the cluster for {cluster.deadline:g} s: its run "
                f"is on its node, in ~/{THERE}/{name}: raise cluster.deadline"
            ) from None
        except RayActorError as error:
            raise ClusterError(
                f"the driver on the cluster was lost ({cause_of(error)}): go on there, from one of "
                f"its nodes: codex-ray run --resume ~/{THERE}/{name}"
            ) from error
        except RayError as error:
            raise cause_of(error) from error
        finally:
            ray.kill(driver)
    found = RunResult.read(out)
    return found.model_copy(
        update={"directory": str(out), "overlooked": sorted({*found.overlooked, *overlooked})}
    )
