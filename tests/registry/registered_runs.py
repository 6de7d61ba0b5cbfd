"""The runs that tests register: one that claims an epsilon, one that claims nothing, and copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

CLAIMS: dict[str, Any] = {
    "name": "claims",
    "rounds": 2,
    "seed": 1,
    "budget": {"epsilon": 50.0, "delta": 1e-5},
    "data": {
        "kind": "breast_cancer",
        "clients": 4,
        "records": [20, 40],
        "ranges": {"mean radius": [6, 30], "mean texture": [9, 40]},
    },
    "model": {"kind": "mlp", "hidden": [3]},
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
CLAIMS_MORE = CLAIMS | {"rounds": 3, "seed": 2}
CLAIMS_NOTHING = CLAIMS | {
    "name": "claims-nothing",
    "trainer": {"kind": "sgd", "learning_rate": 0.1},
    "budget": {},
}
CONFIGS = {"claims": CLAIMS, "claims-more": CLAIMS_MORE, "claims-nothing": CLAIMS_NOTHING}


def another(run: Path, to: Path, *, accuracy: float) -> Path:
    """A copy of a run that claims nothing, with another accuracy, so that it is another run."""
    shutil.copytree(run, to)
    result = json.loads((to / "result.json").read_text())
    result["metrics"]["accuracy"] = accuracy
    (to / "result.json").write_text(json.dumps(result))
    return to
