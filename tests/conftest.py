"""What every test shares: a closed Ray, no data unless it is named, and small experiments."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Ray reads these when it is imported; nothing is written to the home directory.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Hosts would stand back behind the tests of other processes, until their deadlines pass.
os.environ.setdefault("RAY_worker_niceness", "0")
# One thread a process: tests take the other cores, and numbers do not depend on how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
from spreading import rank_of, scheduler_of, shares_tests

import codex_ray

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from codex_ray.records.result import RunResult

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests of real data when no folder of it is named; what takes longest goes first."""
    if shares_tests(config):
        items.sort(key=lambda item: rank_of(item.nodeid))
    if os.environ.get("CODEX_RAY_DATA"):
        return
    left_out = [item for item in items if item.get_closest_marker("data")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Where several processes share the tests, how they do."""
    return scheduler_of(config, log)


@pytest.fixture(scope="session", autouse=True)
def untimed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was timed on this machine before is not known here, and what is timed is not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CODEX_RAY_CACHE", str(tmp_path_factory.mktemp("timed")))
        yield


@pytest.fixture
def silos() -> dict[str, Any]:
    """Six clients with record-level DP-SGD under SecAgg, small enough to run in a second."""
    return {
        "name": "silos",
        "rounds": 3,
        "seed": 1,
        "budget": {"epsilon": 50.0, "delta": 1e-5},
        "data": {
            "kind": "breast_cancer",
            "clients": 6,
            "records": [20, 40],
            "ranges": {"mean radius": [6, 30], "mean texture": [9, 40], "mean area": [140, 2000]},
        },
        "model": {"kind": "linear"},
        "trainer": {
            "kind": "dp_sgd",
            "learning_rate": 0.5,
            "clip_norm": 1.0,
            "noise_multiplier": 1.0,
            "batch_size": 15,
            "batches": {"kind": "poisson", "sampling_rate": 0.5, "steps": 1},
        },
        "federation": {
            "protocol": {"kind": "secagg"},
            "dropouts": {"after_shares": 0.1, "after_masked_input": 0.1},
        },
    }


@pytest.fixture
def devices() -> dict[str, Any]:
    """Forty clients, Poisson cohorts, client-level Gaussian noise under SecAgg+."""
    return {
        "name": "devices",
        "rounds": 3,
        "seed": 2,
        "data": {"kind": "synthetic_images", "clients": 40},
        "model": {"kind": "linear", "outputs": 10},
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
        "federation": {
            "sampler": {"kind": "poisson", "rate": 0.5},
            "protocol": {"kind": "secagg_plus"},
            "mechanism": {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": 1.0},
            "dropouts": {"after_shares": 0.05},
        },
    }


@pytest.fixture
def adaptive(devices: dict[str, Any]) -> dict[str, Any]:
    """The same forty clients, whose clip norm follows their norms from round to round."""
    mechanism = {"kind": "adaptive_gaussian", "noise_multiplier": 1.0, "count_noise": 2.0}
    return devices | {"federation": devices["federation"] | {"mechanism": mechanism}}


@pytest.fixture
def inside(devices: dict[str, Any]) -> dict[str, Any]:
    """The same forty clients, all in every round, who bring the noise themselves."""
    federation = devices["federation"] | {
        "sampler": {"kind": "all"},
        "mechanism": {"kind": "skellam", "clip_norm": 0.5, "noise_multiplier": 1.0},
    }
    return devices | {"federation": federation}


@pytest.fixture
def shared(silos: dict[str, Any]) -> dict[str, Any]:
    """The six clients with one step of DP-SGD a round among them, whose noise they all bring."""
    trainer = {
        "kind": "distributed_dp_sgd",
        "learning_rate": 8.0,
        "clip_norm": 0.5,
        "sampling_rate": 0.5,
        "batch_size": 90,
    }
    federation = {
        "protocol": {"kind": "secagg", "assumed_dropout": 0.2},
        "mechanism": {
            "kind": "discrete_gaussian",
            "noise_multiplier": 4.0,
            "assumed_dropout": 0.4,
        },
        "dropouts": {"after_shares": 0.1, "after_masked_input": 0.05},
    }
    return silos | {"trainer": trainer, "federation": federation}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[dict[str, Any]], RunResult]:
    """The run of an experiment, made once a file, for tests that only read what it left."""
    made: dict[str, RunResult] = {}

    def run(config: dict[str, Any]) -> RunResult:
        key = json.dumps(config)
        if key not in made:
            made[key] = codex_ray.run(config, out=tmp_path_factory.mktemp("finished") / "run")
        return made[key]

    return run


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    """One Ray of two CPUs for the module, on loopback, ended with it."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    yield
    ray.shutdown()
