"""A small schema with one column of every kind, and files that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HEADER = "patient,age,city,weight,smoker,seen,grade,note,billing,ill"
GOOD = [
    "Anna Kowalska,41,Bonn,61.5,0,2020-03-01,low,seen by Dr X,12,0",
    "Bernd Schulz,52,Koeln,80,1,2021-07-15,high,Bernd Schulz called 0221 4711-08,13,1",
    "Cem Yilmaz,33,Bonn,?,yes,2019-12-31,?,?,14,0",
]


def small_schema(files: object, **changed: Any) -> dict[str, Any]:
    """One column of every type and role; no anonymity is asked for."""
    columns: dict[str, dict[str, Any]] = {
        "patient": {"type": "text", "role": "identifier", "pseudonym": True},
        "age": {"type": "integer", "role": "feature", "range": [0, 110], "unit": "years"},
        "city": {"type": "category", "role": "feature", "values": ["Bonn", "Koeln", "Aachen"]},
        "weight": {"type": "number", "role": "feature", "range": [2, 300], "required": False},
        "smoker": {"type": "flag", "role": "feature"},
        "seen": {"type": "date", "role": "feature", "range": ["2000-01-01", "2025-12-31"]},
        "grade": {
            "type": "category", "role": "sensitive", "values": ["low", "high"], "required": False,
        },
        "note": {"type": "text", "role": "feature", "required": False},
        "billing": {"type": "integer", "role": "drop"},
        "ill": {"type": "flag", "role": "label"},
    }  # fmt: skip
    for name, rules in changed.pop("columns", {}).items():
        columns[name] = columns.get(name, {}) | rules
    return {
        "name": "small",
        "purpose": "care-study",
        "consents": {"study": ["care-study"], "contract": ["billing"]},
        "consent": "study",
        "columns": columns,
        "smallest_cell": 2,
        "source": {"kind": "csv", "files": files},
    } | changed


def write_csv(file: Path, lines: list[str] | None = None, *, header: str = HEADER) -> Path:
    """A CSV file."""
    file.write_text("\n".join([header, *(GOOD if lines is None else lines)]) + "\n")
    return file


def many(records: int, *, seed: int = 0) -> list[str]:
    """Lines of different persons."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(records):
        ill = int(rng.random() < 0.4)
        lines.append(
            f"Person-{seed}-{i:06d}-X,{rng.integers(18, 95)},"
            f"{('Bonn', 'Koeln', 'Aachen')[rng.integers(3)]},{rng.normal(75 + 9 * ill, 12):.1f},"
            f"{rng.integers(2)},20{rng.integers(10, 25)}-0{rng.integers(1, 9)}-1{rng.integers(9)},"
            f"{('low', 'high')[ill if rng.random() < 0.9 else 1 - ill]},"
            f"called person-{seed}-{i:06d}-x at p{i}@mail.example,{i},{ill}"
        )
    return lines
