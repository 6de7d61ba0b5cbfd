"""Bad files end in one clear line with file, row and column, and nothing half-written."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from small import GOOD, HEADER, many, small_schema, write_csv

from codex_ray.errors import ConfigError, DataError, InputError
from codex_ray.preparation.inspection import inspect
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema

CELLS = {
    "a number with letters": ("age", "4o", "row 2, column 'age': it is no integer"),
    "a fraction of a year": ("age", "41.5", "row 2, column 'age': '41.5': it is no whole"),
    "too old": ("age", "111", r"row 2, column 'age': '111': it is outside \[0, 110\]"),
    "not a number": ("weight", "nan", "row 2, column 'weight': 'nan': it is not finite"),
    "infinity": ("weight", "inf", "row 2, column 'weight': 'inf': it is not finite"),
    "overflow": ("weight", "1e999", "row 2, column 'weight': .*it is not finite"),
    "an empty required cell": ("age", "", "row 2, column 'age': it is missing, but required"),
    "an unknown city": ("city", "Paris", "row 2, column 'city': it is none of the values"),
    "a case of its own": ("city", "bonn", "row 2, column 'city': it is none of"),
    "a flag of its own": ("smoker", "2", "row 2, column 'smoker': it is no flag"),
    "a German date": ("seen", "1.3.2020", "row 2, column 'seen': it is no date"),
    "no day of February": ("seen", "2020-02-31", "row 2, column 'seen': .*it is no date"),
    "too long ago": ("seen", "1999-12-31", r"row 2, column 'seen': it is outside \[2000-01-01"),
    "no label": ("ill", "?", "row 2, column 'ill': it is missing"),
    "no identifier": ("patient", "", "row 2, column 'patient': it is missing"),
}


def refused(tmp_path, schema: dict, match: str) -> str:
    """The one line of the refusal, after which there is nothing but what was there before."""
    folder = tmp_path / "results"
    with pytest.raises(InputError, match=match) as caught:
        prepare(Schema(**schema), folder / "out")
    assert not folder.exists() or not list(folder.iterdir())
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(("column", "cell", "match"), CELLS.values(), ids=CELLS)
def test_a_bad_cell_is_refused_with_file_row_and_column(tmp_path, column, cell, match):
    cells = GOOD[1].split(",")
    cells[HEADER.split(",").index(column)] = cell
    file = write_csv(tmp_path / "clinic.csv", [GOOD[0], ",".join(cells), GOOD[2]])
    said = refused(tmp_path, small_schema(str(file)), match)
    assert said.startswith(f"{file}, row 2")


def test_a_bad_cell_deep_in_a_file_is_found_by_its_own_row(tmp_path):
    lines = many(20_000)
    lines[17_654] = lines[17_654].replace("Bonn", "B").replace("Koeln", "B").replace("Aachen", "B")
    file = write_csv(tmp_path / "a.csv", lines)
    refused(tmp_path, small_schema(str(file)), r"a\.csv, row 17655, column 'city': it is none")


def test_an_identifier_is_never_quoted(tmp_path):
    file = tmp_path / "a.csv"
    broken = GOOD[1].encode().replace(b"Schulz,", b"Schulz\xff,")
    file.write_bytes(b"\n".join([HEADER.encode(), GOOD[0].encode(), broken]))
    said = refused(tmp_path, small_schema(str(file)), "row 2, column 'patient': it is no UTF-8")
    assert "Schulz" not in said


def test_a_line_of_the_wrong_length_is_refused_and_not_quoted(tmp_path):
    file = write_csv(tmp_path / "a.csv", [GOOD[0], GOOD[1] + ",1"])
    said = refused(tmp_path, small_schema(str(file)), "row 2: it has 11 columns instead of 10")
    assert "Schulz" not in said


FILES = {
    "a column outside the schema": (
        lambda: "\n".join([HEADER + ",zip", GOOD[0] + ",53111"]),
        "column 'zip': it is not in the schema",
    ),
    "a column that is not there": (
        lambda: "\n".join([HEADER.replace(",ill", ""), GOOD[0][:-2]]),
        "column 'ill': there is no such column",
    ),
    "a misspelt column": (
        lambda: "\n".join([HEADER.replace("weight", "wieght"), GOOD[0]]),
        "column 'wieght': it is not in the schema.*did you mean 'weight'",
    ),
    "a column twice": (
        lambda: "\n".join([HEADER.replace("billing", "age"), GOOD[0]]),
        "columns 2 and 9 have the same name",
    ),
    "no record": (lambda: HEADER + "\n", "it holds no record"),
    "nothing": (lambda: "", "it is empty"),
}


@pytest.mark.parametrize(("text", "match"), FILES.values(), ids=FILES)
def test_a_bad_file_is_refused(tmp_path, text, match):
    file = tmp_path / "clinic.csv"
    file.write_text(text())
    assert str(file) in refused(tmp_path, small_schema(str(file)), match)


def test_utf_16_and_broken_gzip_are_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("\n".join([HEADER, *GOOD]).encode("utf-16"))
    refused(tmp_path, small_schema(str(file)), "UTF-8")
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress("\n".join([HEADER, *GOOD]).encode())[:-20])
    refused(tmp_path, small_schema(str(packed)), "b.csv.gz: it cannot be read")


def test_one_bad_client_among_good_ones_leaves_nothing(tmp_path):
    good = write_csv(tmp_path / "a.csv")
    bad = write_csv(tmp_path / "b.csv", [GOOD[0].replace("41", "-1")])
    refused(tmp_path, small_schema([str(good), str(bad)]), r"b\.csv, row 1, column 'age': '-1'")


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    file = write_csv(tmp_path / "a.csv", many(200))

    def progress(said: str) -> None:
        if said.startswith("writing"):
            file.write_text(file.read_text().replace("Bonn", "Koeln"))

    with pytest.raises(DataError, match="changed while"):
        prepare(Schema(**small_schema(str(file))), tmp_path / "out", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_missing_files_and_folders_are_named(tmp_path):
    write_csv(tmp_path / "clinic.csv")
    refused(tmp_path, small_schema(str(tmp_path / "clinc.csv")), "did you mean 'clinic.csv'")
    refused(tmp_path, small_schema(str(tmp_path / "*.tsv")), "nothing matches")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, small_schema(str(tmp_path / "empty")), "is an empty folder")


def test_an_existing_folder_is_never_touched(tmp_path):
    file = write_csv(tmp_path / "a.csv")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        prepare(Schema(**small_schema(str(file))), tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("age", pa.array(["41", "x", "33"]), "row 2, column 'age': it is no integer"),
        (
            "age",
            pa.array([41.0, float("nan"), 33.0]),
            "row 2, column 'age': 'nan': it is not finite",
        ),
        ("age", pa.array([41, None, 33]), "row 2, column 'age': it is missing"),
        ("age", pa.array([[1], [2], [3]]), "row 1, column 'age': it is a list"),
        ("seen", pa.array([1, 2, 3]), "row 1, column 'seen': it is a int64, and no date"),
        ("smoker", pa.array([0, 1, 7]), "row 3, column 'smoker': '7': it is no flag"),
    ],
    ids=["text", "nan", "null", "lists", "integers for dates", "odd flags"],
)
def test_parquet_columns_are_checked_cell_by_cell(tmp_path, column, values, match):
    table = good_table()
    place = table.column_names.index(column)
    table = table.set_column(place, column, values)
    parquet.write_table(table, tmp_path / "a.parquet")
    source = {"kind": "parquet", "files": str(tmp_path / "a.parquet")}
    refused(tmp_path, small_schema("", source=source), match)


def test_an_archive_of_objects_is_refused(tmp_path):
    columns = {name: np.array(["x"], dtype=object) for name in HEADER.split(",")}
    np.savez(tmp_path / "a.npz", **columns)
    source = {"kind": "npz", "files": str(tmp_path / "a.npz")}
    refused(tmp_path, small_schema("", source=source), "cannot be read as an .npz of plain")


def good_table() -> pa.Table:
    """The good records with types of their own."""
    columns = [list(cells) for cells in zip(*(line.split(",") for line in GOOD), strict=True)]
    table = dict(zip(HEADER.split(","), columns, strict=True))
    typed = {name: pa.array(values) for name, values in table.items()}
    typed["age"] = pa.array([41, 52, 33])
    typed["weight"] = pa.array([61.5, 80.0, None])
    typed["smoker"] = pa.array([False, True, True])
    return pa.table(typed)


def test_a_check_lists_the_first_problems_of_every_file(tmp_path):
    bad = [GOOD[0].replace("41", "x"), GOOD[1] + ",1", GOOD[2].replace("33", "999")]
    a = write_csv(tmp_path / "a.csv", bad)
    b = write_csv(tmp_path / "b.csv")
    found = inspect(Schema(**small_schema([str(a), str(b)])), most=5, progress=lambda said: None)
    rows = [problem.split(":")[0].removeprefix(str(a)) for problem in found[0].problems]
    assert sorted(rows) == [", row 1, column 'age'", ", row 2", ", row 3, column 'age'"]
    assert found[1].problems == [] and found[1].records == 3
    few = inspect(Schema(**small_schema([str(a), str(b)])), most=2, progress=lambda said: None)
    assert len(few[0].problems) == 2 and few[0].more and not few[1].more
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
