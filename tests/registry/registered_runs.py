"""The runs that tests register: one that claims an epsilon, one that claims nothing, and copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from codex_ray.bench.small_runs import SERVED

CLAIMS = SERVED | {"name": "claims", "model": {"kind": "mlp", "hidden": [3]}}
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
