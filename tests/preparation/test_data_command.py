"""`codex-ray data` from end to end: check, prepare, card and key."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from small import GOOD, many, small_schema, write_csv

from codex_ray.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def schema(tmp_path):
    """The small schema in a file, with two hospitals beside it."""
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", many(40, seed=ord(name)))
    file = tmp_path / "schema.yaml"
    file.write_text(yaml.safe_dump(small_schema(str(tmp_path / "?.csv"))))
    return file


def test_prepare_card_and_key(schema, tmp_path, capsys):
    assert main(["data", "key", str(tmp_path / "key")]) == 0
    key_id = capsys.readouterr().out.split()[1].rstrip(",")
    out = str(tmp_path / "out")
    assert main(["data", "prepare", str(schema), "--out", out, "--key", str(tmp_path / "key")]) == 0
    said = capsys.readouterr()
    assert "a: 40 records" in said.out and key_id in said.out and said.err == ""
    assert main(["data", "card", out]) == 0
    card = capsys.readouterr().out
    assert "not anonymous" in card and "b: 40 records" in card and key_id in card
    assert main(["data", "card", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "small"
    assert main(["data", "prepare", str(schema), "--out", out]) == 2
    assert "is there already" in capsys.readouterr().err


def test_check_lists_problems_and_writes_nothing(schema, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main(["data", "check", str(schema)]) == 0
    assert "a.csv: 40 records, as the schema says" in capsys.readouterr().out
    write_csv(tmp_path / "a.csv", [GOOD[0].replace("41", "x"), GOOD[1].replace("80", "-80")])
    assert main(["data", "check", str(schema)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "a.csv, row 1, column 'age'" in lines[0] and "row 2, column 'weight'" in lines[1]
    assert main(["data", "check", str(schema), str(tmp_path / "b.csv")]) == 0
    assert main(["data", "check", str(schema), "--most", "0"]) == 2
    assert sorted(tmp_path.iterdir()) == before


def test_source_replaces_the_files_of_the_schema(schema, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert (
        main(["data", "prepare", str(schema), "--out", out, "--source", str(tmp_path / "b.csv")])
        == 0
    )
    assert "a: 40" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda s: s["columns"]["age"].update(rnage=[0, 1]),
            "columns.age.rnage: unknown key: did you",
        ),
        (
            lambda s: s["columns"]["age"].update(type="int"),
            "columns.age.type: 'int' cannot be used",
        ),
        (lambda s: s["columns"].update(age=3), "columns.age: write its type and role"),
        (lambda s: s.pop("columns"), "columns: is missing"),
        (lambda s: s.update(purpos="x"), "purpos: unknown key: did you mean 'purpose'"),
        (lambda s: s["source"].update(kind="cvs"), "source.kind: 'cvs' is no kind of source"),
        (lambda s: s.update(clients={"kind": "iid"}), "clients.clients: is missing"),
    ],
)
def test_a_wrong_schema_ends_in_one_line_that_names_the_field(
    schema, tmp_path, capsys, change, match
):
    data = yaml.safe_load(schema.read_text())
    change(data)
    schema.write_text(yaml.safe_dump(data))
    assert main(["data", "check", str(schema)]) == 2
    said = capsys.readouterr().err
    assert match in said and said.count("\n") == 1


def test_help_names_every_action(capsys):
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    said = capsys.readouterr().out
    assert all(action in said for action in ("prepare", "card", "ablate", "check", "key"))


def test_the_example_schema_prepares_files_like_the_four_hospitals(tmp_path, capsys):
    """A twin of the raw UCI files: no header, both ways to write a number, ? and -9."""
    rng = np.random.default_rng(0)
    files = []
    for hospital, count in (("cleveland", 60), ("va", 40)):
        lines = []
        for _ in range(count):
            ill = rng.integers(0, 5) * (rng.random() < 0.5)
            sex, pain, pressure = rng.integers(2), rng.integers(1, 5), rng.integers(100, 180)
            row = [rng.integers(30, 75), sex, pain, pressure, rng.integers(150, 400), 0]
            row += [rng.integers(3), rng.integers(80, 200), 1, 0.5, "?", -9, "?", ill]
            if hospital == "cleveland":
                row = [f"{cell:.1f}" if not isinstance(cell, str) else cell for cell in row[:-1]]
                row.append(ill)
            row[4] = "?" if rng.random() < 0.2 else row[4]
            lines.append(",".join(map(str, row)))
        files.append(tmp_path / f"processed.{hospital}.data")
        files[-1].write_text("\n".join(lines) + "\n")
    schema = str(ROOT / "experiments/heart_disease_schema.yaml")
    arguments = ["--out", str(tmp_path / "out"), "--source", *map(str, files)]
    assert main(["data", "prepare", schema, *arguments]) == 0
    said = capsys.readouterr().out
    assert "processed.cleveland: 60 records, k = " in said and "processed.va: 40 records" in said


@pytest.mark.data
def test_the_example_schema_prepares_the_four_hospitals(tmp_path, capsys):
    folder = Path(os.environ["CODEX_RAY_DATA"]) / "heart"
    schema = str(ROOT / "experiments/heart_disease_schema.yaml")
    files = [str(file) for file in sorted(folder.glob("processed.*.data"))]
    assert main(["data", "prepare", schema, "--out", str(tmp_path / "o"), "--source", *files]) == 0
    said = capsys.readouterr().out
    for name, records in (
        ("cleveland", 303),
        ("hungarian", 294),
        ("switzerland", 123),
        ("va", 200),
    ):
        assert f"processed.{name}: {records} records, k = " in said
