"""Three small hospitals as prepared records, and runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema

NAMES = ("north", "south", "west")
RECORDS = 40
FIELDS: dict[str, Any] = {"purpose": "study", "missing": "middle", "test_fraction": 0.25}


def three_hospitals(folder: Path, *, without_weight: str = "", **more: Any) -> Path:
    """A folder of records with two numbers, one with gaps, a flag and three classes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for hospital in NAMES:
        lines = ["age,weight,smoker,stage"]
        for row in range(RECORDS):
            weight = str(rng.integers(45, 110))
            weight = "" if row % 9 == 4 or hospital == without_weight else weight
            lines.append(f"{rng.integers(20, 80)},{weight},{row % 2},{row % 3}")
        (folder / f"{hospital}.csv").write_text("\n".join(lines) + "\n")
    schema = {
        "name": "hospitals",
        "purpose": "study",
        "consents": {"c": ["study"]},
        "consent": "c",
        "columns": {
            "age": {"type": "integer", "role": "feature", "range": [0, 100]},
            "weight": {
                "type": "number",
                "role": "feature",
                "range": [0, 200],
                "required": False,
            },
            "smoker": {"type": "flag", "role": "feature"},
            "stage": {"type": "integer", "role": "label", "range": [0, 2]},
        },
        "source": {"kind": "csv", "files": str(folder / "*.csv")},
    }
    return prepare(Schema.model_validate(schema | more), folder / "prepared").folder


def run_on(folder: Path, **more: Any) -> dict[str, Any]:
    """A run of two rounds; `more` is put in place of its parts."""
    return {
        "name": "prepared",
        "rounds": 2,
        "data": FIELDS | {"kind": "prepared", "path": str(folder)},
        "model": {"kind": "mlp", "hidden": [4], "outputs": 3},
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
    } | more
