"""The experiments whose certificates are tested, and how one is issued for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codex_ray.assembly import assemble
from codex_ray.certifying.issue import issue
from codex_ray.certifying.terms import Terms
from codex_ray.config import experiment_from, load_yaml
from codex_ray.records.certificate import Document
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.run_directory import RunDirectory

RECORDS: dict[str, Any] = {
    "name": "records",
    "rounds": 3,
    "seed": 1,
    "budget": {"epsilon": 50.0, "delta": 1e-5},
    "data": {
        "kind": "breast_cancer",
        "clients": 6,
        "records": [20, 40],
        "ranges": {"mean radius": [6, 30], "mean texture": [9, 40]},
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
        "protocol": {"kind": "ideal"},
        "dropouts": {"after_shares": 0.2, "after_masked_input": 0.1},
    },
}
HIDDEN: dict[str, Any] = RECORDS | {
    "name": "hidden",
    "seed": 2,
    "data": {"kind": "synthetic_images", "clients": 40},
    "model": {"kind": "linear", "outputs": 10},
    "federation": {
        "sampler": {"kind": "poisson", "rate": 0.5},
        "protocol": {"kind": "ideal"},
        "mechanism": {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": 1.0},
        "dropouts": {"after_shares": 0.05},
    },
}
INSIDE: dict[str, Any] = HIDDEN | {
    "name": "inside",
    "trainer": {"kind": "sgd", "learning_rate": 0.1},
    "federation": HIDDEN["federation"]
    | {
        "sampler": {"kind": "all"},
        "mechanism": {"kind": "skellam", "clip_norm": 0.5, "noise_multiplier": 1.0},
    },
}
CONFIGS = {"records": RECORDS, "hidden": HIDDEN, "inside": INSIDE}


def certified(path: Path) -> Document:
    """The certificate of a finished run, issued from its last state."""
    directory = RunDirectory.open(path)
    assembled = assemble(experiment_from(load_yaml(directory.config)))
    return issue(Terms.of(assembled), Checkpoints(directory.checkpoint).load(), directory)
