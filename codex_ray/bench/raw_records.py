"""A CSV file as large as one likes, of records that have to be prepared before use.

Each has an identifier, quasi-identifiers, numbers, categories with gaps, a sensitive value, a note
that names the person, and a label. Blocks of records are drawn from public streams of their own and
written one after the other, so that the file is never held in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from codex_ray.randomness import Randomness

K: Final = 50
"""Records that every class has to have."""
BLOCK: Final = 20_000
"""Records that are drawn at a time."""
CITIES: Final = ("Bonn", "Koeln", "Aachen")
GRADES: Final = ("low", "high")
STREAM: Final = ("bench", "raw records")
_REPORTS: Final = 512
_LETTERS: Final = 290
_SAID: Final = (
    "patient was seen on the ward and reports no pain since the last visit a cough at night "
    "better with rest worse on stairs blood pressure normal heart sounds clear lungs free"
)

COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "patient": {"type": "text", "role": "identifier"},
    "age": {"type": "integer", "role": "quasi_identifier", "range": [0, 110], "unit": "years"},
    "city": {"type": "category", "role": "quasi_identifier", "values": list(CITIES)},
    "weight": {"type": "number", "role": "feature", "range": [2, 300], "required": False},
    "smoker": {"type": "flag", "role": "feature"},
    "seen": {"type": "date", "role": "feature", "range": ["2000-01-01", "2025-12-31"]},
    "grade": {"type": "category", "role": "sensitive", "values": list(GRADES), "required": False},
    "note": {"type": "text", "role": "feature", "required": False, "masks": ["email"]},
    "billing": {"type": "integer", "role": "drop"},
    "ill": {"type": "flag", "role": "label"},
}


def schema_for(file: Path) -> dict[str, Any]:
    """The schema of the records in `file`: one client, k-anonymous."""
    return {
        "name": "raw-records",
        "purpose": "care-study",
        "consents": {"study": ["care-study"]},
        "consent": "study",
        "columns": COLUMNS,
        "anonymity": {"k": K},
        "source": {"kind": "csv", "files": str(file)},
    }


def write_records(file: Path, *, size: int) -> int:
    """Writes whole blocks of records until the file has `size` bytes; how many records it has."""
    tree = Randomness.of(0).public
    reports = _reports(tree.stream(*STREAM, "reports").numpy())
    options = csv.WriteOptions(quoting_style="none")
    written = 0
    kinds = _block(0, 1, reports).schema
    with file.open("wb") as out, csv.CSVWriter(out, kinds, write_options=options) as lines:
        while not written or out.tell() < size:
            lines.write(_block(written // BLOCK, BLOCK, reports))
            written += BLOCK
    return written


def write_three(file: Path) -> None:
    """Writes three records, whose preparation loads whatever a larger one does."""
    reports = _reports(Randomness.of(0).public.stream(*STREAM, "reports").numpy())
    csv.write_csv(_block(0, 3, reports), file, csv.WriteOptions(quoting_style="none"))


def _reports(rng: np.random.Generator) -> pa.Array:
    """Texts of `_LETTERS` letters."""
    words = np.asarray(_SAID.split())
    return pa.array(
        [" ".join(rng.choice(words, _LETTERS // 3))[:_LETTERS].strip() for _ in range(_REPORTS)]
    )


def _block(number: int, count: int, reports: pa.Array) -> pa.Table:
    """So many records of one block, as the texts that their cells are written as."""
    rng = Randomness.of(0).public.stream(*STREAM, number).numpy()
    place = pa.array([f"{number}-{i:06d}-x" for i in range(count)], pa.string())
    ill = rng.random(count) < 0.4
    high = ill ^ (rng.random(count) < 0.1)
    weight = np.clip(rng.normal(75 + 9 * ill, 12), 20, 250).round(1)
    days = np.datetime64("2010-01-01") + rng.integers(0, 5000, count).astype("timedelta64[D]")
    report = reports.take(pa.array(rng.integers(_REPORTS, size=count)))
    note = pc.binary_join_element_wise(
        "called person-", place, " at p", place, "@mail.example ", report, ""
    )
    return pa.table(
        {
            "patient": pc.binary_join_element_wise("Person-", place, ""),
            "age": rng.integers(18, 95, count),
            "city": _chosen(CITIES, rng.integers(3, size=count)),
            "weight": _with_gaps(pa.array(weight), rng.random(count) < 0.02),
            "smoker": rng.integers(2, size=count),
            "seen": pa.array(days),
            "grade": _with_gaps(_chosen(GRADES, high.astype(np.int64)), rng.random(count) < 0.02),
            "note": note,
            "billing": np.arange(number * BLOCK, number * BLOCK + count),
            "ill": ill.astype(np.int64),
        }
    )


def _chosen(options: tuple[str, ...], codes: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(options).take(pa.array(codes))


def _with_gaps(values: pa.Array, gaps: npt.NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(gaps), pa.scalar(None, values.type), values)
