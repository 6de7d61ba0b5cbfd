"""Records of three hospitals that are prepared, and runs on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from codex_ray.bench.small_runs import HOSPITALS
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema

HOSPITALS_NAMED = ("north", "south", "west")
RECORDS = 30


def people(hospital: str) -> list[str]:
    """Whose records a hospital has."""
    return [f"Zofia-{hospital}-{number:03d}-Kowalska" for number in range(RECORDS)]


def prepared(folder: Path) -> Path:
    """A folder with a name in three columns, an age that is generalised, and a weight."""
    rng = np.random.default_rng(0)
    for hospital in HOSPITALS_NAMED:
        lines = ["patient,insured,age,weight,note,ill"]
        for name in people(hospital):
            age, weight, ill = rng.integers(20, 80), rng.integers(45, 110), rng.integers(2)
            lines.append(f"{name},{name},{age},{weight},{name} was called,{ill}")
        (folder / f"{hospital}.csv").write_text("\n".join(lines) + "\n")
    schema = {
        "name": "two",
        "purpose": "study",
        "consents": {"c": ["study"]},
        "consent": "c",
        "anonymity": {"k": 3},
        "columns": {
            "patient": {"type": "text", "role": "identifier", "pseudonym": True},
            "insured": {"type": "text", "role": "identifier"},
            "age": {"type": "integer", "role": "quasi_identifier", "range": [0, 100]},
            "weight": {"type": "number", "role": "feature", "range": [0, 200]},
            "note": {"type": "text", "role": "feature"},
            "ill": {"type": "category", "role": "label", "values": ["0", "1"]},
        },
        "source": {"kind": "csv", "files": str(folder / "*.csv")},
    }
    return prepare(Schema.model_validate(schema), folder / "prepared").folder


def config(folder: Path, **data: Any) -> dict[str, Any]:
    """A run that claims an epsilon for records."""
    asked = {"kind": "prepared", "path": str(folder), "purpose": "study", "test_fraction": 0.2}
    asked |= {"features": ["weight"]} | data
    return HOSPITALS | {"name": "prepared", "rounds": 1, "data": asked}


def with_other_records(folder: Path) -> None:
    """Other weights in the first shard, and a manifest that names them: the card is as it was."""
    file = folder / "shards" / "client-000000.parquet"
    table = parquet.read_table(file)
    place = table.column_names.index("weight")
    moved = pa.array(table["weight"].to_numpy() + 1.0)
    parquet.write_table(table.set_column(place, "weight", moved), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    in_manifest(folder, lambda manifest: manifest["shards"][0].update(sha256=sha256))


def with_other_names(folder: Path) -> None:
    """What an endpoint would call the classes, swapped."""
    in_manifest(folder, lambda manifest: manifest["label"]["values"].reverse())


def in_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits the manifest."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
