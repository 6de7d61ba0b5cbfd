"""What a column brings: one that decides the label does, one that is noise does not."""

from pathlib import Path

import numpy as np
import pytest

from codex_ray.cli import main
from codex_ray.errors import DataError
from codex_ray.preparation.ablation import ablation
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema


def prepared(folder: Path, *, records: int = 150) -> Path:
    rng = np.random.default_rng(0)
    for client in "ab":
        lines = ["dose,noise,team,twin,ill"]
        for i in range(records):
            dose = rng.uniform(0, 10)
            ill = int(dose + rng.normal(0, 1) > 5)
            shown = "" if i % 20 == 3 else f"{dose:.2f}"
            lines.append(f"{shown},{rng.uniform(0, 1):.3f},{'xy'[i % 2]},{i % 2},{ill}")
        (folder / f"{client}.csv").write_text("\n".join(lines))
    columns = {
        "noise": {"type": "number", "role": "feature", "range": [0, 1]},
        "team": {"type": "category", "role": "feature", "values": ["x", "y"]},
        "dose": {"type": "number", "role": "feature", "range": [0, 10], "required": False},
        "twin": {"type": "flag", "role": "feature"},
        "ill": {"type": "flag", "role": "label"},
    }
    schema = {
        "name": "ablated",
        "purpose": "study",
        "consents": {"c": ["study"]},
        "consent": "c",
        "missing": [""],
        "columns": columns,
        "source": {"kind": "csv", "files": str(folder / "*.csv")},
    }
    return prepare(Schema(**schema), folder / "out").folder


def test_the_column_that_decides_comes_first_and_the_others_bring_nothing(tmp_path, capsys):
    folder = prepared(tmp_path)
    whole, first, *others = ablation(folder)
    assert (whole.column, first.column) == ("", "dose")
    assert whole.accuracy > 0.8 and whole.auc > 0.9
    assert first.auc > 0.3 and first.accuracy > 0.25
    assert {one.column for one in others} == {"noise", "team", "twin"}
    assert all(abs(one.auc) < 0.02 for one in others)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert main(["data", "card", str(folder), "--ablate"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"all columns: accuracy {whole.accuracy:.3f} (")
    assert said[1].split()[0] == "dose"
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert ablation(folder) == [whole, first, *others]


def test_of_too_few_records_nothing_is_said(tmp_path):
    with pytest.raises(DataError, match="only said with two classes and 10 records of each"):
        ablation(prepared(tmp_path, records=8))
