"""The small experiments that privacy is benchmarked on, as an experiment's file would have them."""

from __future__ import annotations

from typing import Any, Final

DELTA: Final = 1e-5

HOSPITALS: Final[dict[str, Any]] = {
    "name": "hospitals",
    "rounds": 3,
    "seed": 1,
    "budget": {"delta": DELTA},
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
    "federation": {"protocol": {"kind": "ideal"}},
}
"""Six hospitals, each of which protects its records by DP-SGD."""

SERVED: Final[dict[str, Any]] = HOSPITALS | {
    "name": "served",
    "rounds": 2,
    "budget": {"epsilon": 50.0, "delta": DELTA},
    "data": {
        "kind": "breast_cancer",
        "clients": 4,
        "records": [20, 40],
        "ranges": {"mean radius": [6, 30], "mean texture": [9, 40]},
    },
}
"""Four of them with two measurements and a budget: a model to register, and to ask for answers."""

PHONES: Final[dict[str, Any]] = {
    "name": "phones",
    "rounds": 1,
    "seed": 1,
    "budget": {"delta": DELTA},
    "data": {"kind": "synthetic_images", "clients": 20},
    "model": {"kind": "mlp", "hidden": [700], "outputs": 10},
    "trainer": {"kind": "sgd", "learning_rate": 0.1},
    "federation": {
        "protocol": {"kind": "ideal"},
        "mechanism": {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": 1.0},
    },
}
"""Twenty clients whose model has the 50 000 parameters that 500 canaries need."""

RECORDS: Final[dict[str, Any]] = {
    "name": "records",
    "rounds": 1,
    "seed": 1,
    "budget": {"delta": DELTA},
    "data": {"kind": "synthetic_images", "clients": 4, "size": 28},
    "model": {"kind": "linear", "outputs": 10},
    "trainer": {
        "kind": "dp_sgd",
        "learning_rate": 0.1,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "batch_size": 20,
        "batches": {"kind": "poisson", "sampling_rate": 1.0, "steps": 1},
    },
    "federation": {"protocol": {"kind": "ideal"}},
}
"""Four clients with a model of 7850 parameters; every record is in every step, so that an attacker
sees all that a claim allows."""


def with_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """The experiment with another seed: data, weights, noise and canaries are all drawn anew."""
    return config | {"seed": seed}


def with_mechanism(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The experiment with another mechanism."""
    return config | {"federation": config["federation"] | {"mechanism": fields}}


def with_trainer(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The experiment with some of its trainer's fields changed."""
    return config | {"trainer": config["trainer"] | fields}
