"""Four small hospitals in CSV files, and runs that scale by their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIZES = (36, 24, 48, 20)
RANGES: dict[str, tuple[float, float]] = {"age": (20, 80), "chol": (80, 610), "angina": (0, 1)}
NOISED = {"scaling": "pooled", "imputation": "mean", "noise_multiplier": 12.0}
EXACT = {"scaling": "pooled", "imputation": "median", "by": "quartiles"}
OWN = {"scaling": "per_client", "imputation": "mean"}
SGD = {"kind": "sgd", "learning_rate": 0.3}
DP_SGD = {
    "kind": "dp_sgd",
    "learning_rate": 0.5,
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "batch_size": 15,
    "batches": {"kind": "poisson", "sampling_rate": 0.5, "steps": 1},
}
SHARED = {
    "kind": "distributed_dp_sgd",
    "clip_norm": 1.0,
    "learning_rate": 2.0,
    "sampling_rate": 1.0,
    "batch_size": 120,
}
NOISE = {"kind": "discrete_gaussian", "noise_multiplier": 20.0}
UPDATES = {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": 2.0}


def write_hospitals(folder: Path, *, seed: int = 0) -> str:
    """The files, and the pattern that finds them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        age = rng.normal(48 + 4 * number, 9, size)
        chol = rng.normal(240, 45, size)
        ill = age + chol / 20 + rng.normal(0, 4, size) > 65
        lines = ["age,chol,angina,ill"]
        for row in range(size):
            shown = "" if row % 9 == 4 else f"{chol[row]:.1f}"
            lines.append(f"{age[row]:.1f},{shown},{row % 2},{int(ill[row])}")
        (folder / f"h{number}.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "h*.csv")


def experiment(
    files: str,
    prepare: dict[str, Any] | None,
    *,
    trainer: dict[str, Any] | None = None,
    mechanism: dict[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """A run of three rounds."""
    data: dict[str, Any] = {
        "kind": "csv",
        "files": files,
        "label": "ill",
        "ranges": {name: list(ends) for name, ends in RANGES.items()},
        "test_fraction": 0.25,
    }
    data |= {"missing": "drop"} if prepare is None else {"prepare": prepare}
    federation: dict[str, Any] = {"protocol": {"kind": "secagg"}}
    if mechanism is not None:
        federation["mechanism"] = mechanism
    return {
        "name": "pooling",
        "rounds": 3,
        "seed": 0,
        "plan": "reference",
        "data": data,
        "model": {"kind": "linear"},
        "trainer": trainer or SGD,
        "federation": federation,
    } | changed
