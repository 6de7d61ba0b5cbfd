"""What every test shares: a closed Ray, no data unless it is named, and two small experiments."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Ray reads these when it is imported; nothing is written to the home directory.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests of real data when no folder of it is named."""
    if os.environ.get("CODEX_RAY_DATA"):
        return
    left_out = [item for item in items if item.get_closest_marker("data")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
