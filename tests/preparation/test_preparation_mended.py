"""What once went wrong in a preparation: wrong records, or a name told in an error."""

import json
import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import ipc, parquet
from small import GOOD, HEADER, many, small_schema, write_csv

from codex_ray.cli.data import read_schema
from codex_ray.config import load_yaml, parse_overrides
from codex_ray.data.prepared_shards import PreparedShards
from codex_ray.errors import ConfigError, DataError, InputError
from codex_ray.preparation.inspection import inspect
from codex_ray.preparation.masking import masked
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema
from codex_ray.serving.policy import read_policy

ME = "test_preparation_mended"
PIECE = dict(
    zip(HEADER.split(","), zip(*(line.split(",") for line in GOOD), strict=True), strict=True)
)
NO_NOTE = [name for name in PIECE if name != "note"]
CALLS: list[int] = []


def by_python(factory: str) -> Schema:
    """The small schema with a function of this file as its source."""
    return Schema(**small_schema("", source={"kind": "python", "factory": f"{ME}:{factory}"}))


def refused(schema: Schema, folder: Path, match: str) -> str:
    """The one line of the refusal, which leaves nothing behind."""
    with pytest.raises(InputError, match=match) as caught:
        prepare(schema, folder / "out")
    assert [p.name for p in folder.iterdir() if "out" in p.name] == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Columns of every piece


def second_lacks_the_label():
    yield PIECE
    yield {name: values for name, values in PIECE.items() if name != "ill"}


def second_has_a_salary():
    yield PIECE
    yield PIECE | {"salary": (1, 2, 3)}


def second_lacks_the_note():
    yield PIECE
    yield {name: PIECE[name] for name in NO_NOTE}


@pytest.mark.parametrize(
    ("factory", "match"),
    [
        (second_lacks_the_label, "column 'ill': there is no such column"),
        (second_has_a_salary, "column 'salary': it is not in the schema"),
    ],
)
def test_every_piece_of_a_function_is_checked_for_its_columns(tmp_path, factory, match):
    refused(by_python(factory.__name__), tmp_path, match)


def test_a_piece_may_lack_a_column_that_is_not_required(tmp_path):
    made = prepare(by_python("second_lacks_the_note"), tmp_path / "out")
    assert made.holdings[0].records == 6


# The same records both times


def another_order():
    """Half of the records change their classes' neighbours, the second time."""
    lines = many(40)
    CALLS.append(1)
    if len(CALLS) == 2:
        lines = lines[20:] + lines[:20]
    cells = zip(*(line.split(",") for line in lines), strict=True)
    return dict(zip(HEADER.split(","), map(list, cells), strict=True))


def another_name():
    """The second time the records have other identifiers."""
    CALLS.append(1)
    return PIECE | {"patient": [f"{name} {len(CALLS)}" for name in PIECE["patient"]]}


def fewer():
    CALLS.append(1)
    return {name: values[: 4 - len(CALLS)] for name, values in PIECE.items()}


def one_more():
    CALLS.append(1)
    return {name: values[: 1 + len(CALLS)] for name, values in PIECE.items()}


@pytest.mark.parametrize("factory", [another_order, another_name, fewer, one_more])
def test_a_function_that_gives_others_the_second_time_is_refused(tmp_path, factory):
    CALLS.clear()
    refused(by_python(factory.__name__), tmp_path, f"{factory.__name__}: .* changed while")


# Nobody's record in an error


SECRET = "Maria Secret,41,Bonn,61.5,0,2020-03-01,low,seen,12,0"


def test_a_file_without_a_line_of_names_tells_nothing_of_its_first_record(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("\n".join([SECRET[:-1] + "1", *GOOD]) + "\n")
    schema = Schema(**small_schema(str(file)))
    said = refused(schema, tmp_path, "does not look like names, set source.names")
    found = " ".join(inspect(schema, most=9, progress=lambda said: None)[0].problems)
    for words in (said, found):
        assert not any(cell in words for cell in ("Maria", "Secret", "61.5", "2020", "'41'"))


def test_a_first_record_that_repeats_a_cell_is_not_quoted(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(SECRET.replace("seen", "Maria Secret") + "\n")
    said = refused(
        Schema(**small_schema(str(file))),
        tmp_path,
        "columns 1 and 8 have the same name.* source.names",
    )
    assert "Maria" not in said


def test_a_missing_column_is_told_without_the_files_own_columns(tmp_path):
    header = HEADER.replace("weight", "Maria Secret")
    file = write_csv(tmp_path / "a.csv", header=header)
    schema = Schema(**small_schema(str(file), columns={"weight": {"required": True}}))
    found = inspect(schema, most=9, progress=lambda said: None)[0].problems
    (missing,) = (said for said in found if "'weight'" in said)
    assert missing.endswith("there is no such column")


@pytest.mark.parametrize("column", ["age", "city", "smoker", "seen", "ill", "grade", "weight"])
def test_a_name_in_a_column_that_it_slipped_into_is_not_quoted(tmp_path, column):
    cells = GOOD[1].split(",")
    cells[HEADER.split(",").index(column)] = "Maria Secret"
    file = write_csv(tmp_path / "a.csv", [GOOD[0], ",".join(cells)])
    said = refused(
        Schema(**small_schema(str(file))), tmp_path, f"row 2, column '{column}': it is no"
    )
    assert "Maria" not in said


def test_where_no_column_can_hold_a_name_a_wrong_cell_is_quoted(tmp_path):
    plain = {"patient": {"type": "integer", "role": "drop", "pseudonym": False}}
    plain["note"] = {"type": "category", "role": "drop"}
    file = write_csv(tmp_path / "a.csv", [GOOD[0].replace("Bonn", "Paris")])
    refused(Schema(**small_schema(str(file), columns=plain)), tmp_path, "'Paris': it is none of")


# Identifiers of every type, and files of the wrong kind


NUMBERED = {
    "an integer": ("integer", pa.array([2**60 + 1, 2**60 + 3, 777])),
    "a date": ("date", pa.array([date(1958, 12, 3), date(1960, 1, 1), date(1970, 5, 5)])),
    "a number": ("number", pa.array([4711.0, 888.0, 999.0])),
    "a flag": ("flag", pa.array([True, False, True])),
    "an integer in a text": ("text", pa.array([2**60 + 1, 2**60 + 3, 777])),
}


@pytest.mark.parametrize("kept", [True, False], ids=["pseudonym", "dropped"])
@pytest.mark.parametrize(("kind", "values"), NUMBERED.values(), ids=NUMBERED)
def test_an_identifier_may_be_of_any_type(tmp_path, kind, values, kept):
    table = pa.table({name: list(cells) for name, cells in PIECE.items()} | {"patient": values})
    texts = values.cast(pa.string()).to_pylist()
    place = table.column_names.index("note")
    notes = pa.array([f"about {text} again" for text in texts])
    parquet.write_table(table.set_column(place, "note", notes), tmp_path / "a.parquet")
    columns = {"patient": {"type": kind, "pseudonym": kept}, "note": {"masks": []}}
    source = {"kind": "parquet", "files": str(tmp_path / "a.parquet")}
    made = prepare(Schema(**small_schema("", source=source, columns=columns)), tmp_path / "out")
    shard = parquet.read_table(made.folder / made.manifest.shards[0].file)
    assert shard["note"].to_pylist() == ["about [identifier] again"] * 3
    if kept:
        assert len(set(shard["patient"].to_pylist())) == len(set(texts))


def test_the_pseudonym_of_a_number_is_that_of_its_text(tmp_path):
    from codex_ray.preparation.pseudonyms import PseudonymKey

    key = PseudonymKey(bytes(32))
    file = write_csv(tmp_path / "a.csv", [GOOD[0].replace("Anna Kowalska", "007")])
    columns = {"patient": {"type": "integer", "range": [0, 99]}}
    made = prepare(Schema(**small_schema(str(file), columns=columns)), tmp_path / "out", key=key)
    shard = parquet.read_table(made.folder / made.manifest.shards[0].file)
    assert shard["patient"].to_pylist() == [key.pseudonym("patient", "007")]
    file.write_text(file.read_text().replace("007", "4711"))
    (tmp_path / "no").mkdir()
    said = refused(Schema(**small_schema(str(file), columns=columns)), tmp_path / "no", "outside")
    assert "column 'patient': it is outside [0, 99]" in said and "4711" not in said


@pytest.mark.parametrize("kind", ["text", "number"])
def test_an_identifier_that_is_nan_names_nobody(tmp_path, kind):
    patients = pa.array([4711.0, float("nan"), 999.0])
    table = pa.table({name: list(cells) for name, cells in PIECE.items()} | {"patient": patients})
    parquet.write_table(table, tmp_path / "a.parquet")
    source = {"kind": "parquet", "files": str(tmp_path / "a.parquet")}
    columns = {"patient": {"type": kind}}
    schema = small_schema("", source=source, columns=columns)
    refused(Schema(**schema), tmp_path, "row 2, column 'patient': it is not finite")
    columns["patient"] |= {"missing": ["nan"], "required": False}
    made = prepare(Schema(**small_schema("", source=source, columns=columns)), tmp_path / "out")
    shard = parquet.read_table(made.folder / made.manifest.shards[0].file)
    assert shard["patient"].is_null().to_pylist() == [False, True, False]


@pytest.mark.parametrize("column", ["patient", "note", "city", "seen", "weight"])
@pytest.mark.parametrize(
    "values", [pa.array([["x"], ["y"], ["z"]]), pa.array([{"a": 1}, {"a": 2}, {"a": 3}])]
)
def test_a_column_of_lists_or_records_is_one_line(tmp_path, column, values):
    table = pa.table({name: list(cells) for name, cells in PIECE.items()} | {column: values})
    parquet.write_table(table, tmp_path / "a.parquet")
    source = {"kind": "parquet", "files": str(tmp_path / "a.parquet")}
    refused(Schema(**small_schema("", source=source)), tmp_path, rf"a\.parquet.*column '{column}'")


def test_an_array_alone_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    source = {"kind": "npz", "files": str(tmp_path / "a.npy")}
    refused(Schema(**small_schema("", source=source)), tmp_path, "cannot be read as an .npz")


@pytest.mark.parametrize(
    "state", ["{", "{}", "[]", "3", '{"_data_files": [3]}', '{"_data_files": 3}', "\xff"]
)
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_broken_state_of_a_saved_data_set_is_one_line(tmp_path, state, name):
    folder = tmp_path / "a"
    folder.mkdir()
    with ipc.new_stream(folder / "data.arrow", pa.schema([])):
        pass
    (folder / name).write_bytes(state.encode("latin-1"))
    source = {"kind": "hugging_face", "files": str(folder)}
    refused(
        Schema(**small_schema("", source=source)), tmp_path, "a: it is no folder of Dataset.save"
    )


# A key that stands twice


TWICE = {
    "at the top": "a: 1\nb: 2\na: 3\n",
    "inside": "x:\n  - {Effect: Allow, Effect: Deny}\n",
    "written in two ways": "1: a\n0x1: b\n",
    "deep in a key": "? {k: 1, k: 2}\n: 3\n",
}


@pytest.mark.parametrize("text", TWICE.values(), ids=TWICE)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml line \d+: not valid YAML: .* stands twice"):
        load_yaml(file)


def test_what_is_merged_in_may_be_replaced(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "base: &base {a: 1, b: 2}\nmore: &more\n  <<: *base\n  a: 3\n"
        "outer: {inner: &inner {<<: *more, b: 5}, <<: *inner}\n"
    )
    found = load_yaml(file)
    assert found["more"] == {"a": 3, "b": 2}
    assert found["outer"] == {"a": 3, "b": 5, "inner": {"a": 3, "b": 5}}


def test_an_override_with_a_key_twice_is_refused():
    with pytest.raises(ConfigError, match="--set a="):
        parse_overrides(["a={b: 1, b: 2}"])


def test_nesting_without_end_is_one_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: " + "[" * 600)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_yaml(file)
    with pytest.raises(ConfigError, match="--set a="):
        parse_overrides(["a=" + "[" * 600])


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_deny_cannot_vanish_behind_a_second_effect(tmp_path, ending):
    file = tmp_path / f"policy.{ending}"
    deny = '{"Effect": "Deny", "Action": "model:*", "Effect": "Allow"}'
    file.write_text(f'{{"Statement": [{deny}]}}')
    with pytest.raises(ConfigError, match="stands twice"):
        read_policy(file)
    file.write_text(
        '{"Statement": [{"Effect": "Deny", "Action": "*"}], "Version": 1,\n'
        ' "Statement": [{"Effect": "Allow", "Action": "*"}]}'
    )
    with pytest.raises(ConfigError, match=rf"policy\.{ending} line 2: .*'Statement' stands twice"):
        read_policy(file)


# Identifiers in parts


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("Kowalska, Anna", "Anna Kowalska came", "[identifier] came"),
        ("Anna Kowalska", "KOWALSKA, ANNA: seen", "[identifier]: seen"),
        ("Anna Maria Kowalska", "Mrs Kowalska, by Anna", "Mrs [identifier], by [identifier]"),
        ("Li, Wei", "Wei Li and Bo Li", "[identifier] and Bo Li"),
        ("Wu, Li", "Li Wu came to Li", "[identifier] came to Li"),
        ("Li, Wei", "Wei ...... Li", "[identifier] ...... Li"),
        ("Anna Kowalska", "Annabelle came", "Annabelle came"),
        ("Müller-Lüdenscheidt", "Frau MÜLLER", "Frau [identifier]"),
        ("Dr. A. Bach", "a bach, 3 a", "[identifier], 3 a"),
        ("12 / 34", "12 of 34 mg", "12 of 34 mg"),
        ("İnci Ören", "OREN saw INCI, İNCİ O\u0308ren", "[identifier] saw [identifier]"),
        ("Anna", "[email] anna_k", "[email] [identifier]_k"),
    ],
)
def test_parts_of_an_identifier_are_masked_as_words(name, text, left):
    made = masked(pa.array([text]), chosen=[], own={}, identifiers=[pa.array([name])])
    assert made.to_pylist() == [left]


# Kept until a day


def kept_until(day: str, file: Path) -> Schema:
    return Schema(**small_schema(str(file), delete_after=day))


def test_records_are_refused_after_their_last_day(tmp_path, monkeypatch):
    file = write_csv(tmp_path / "a.csv")
    made = prepare(kept_until("2999-01-01", file), tmp_path / "out")
    assert made.manifest.delete_after == date(2999, 1, 1)
    card = json.loads((made.folder / "card.json").read_text())
    assert card["delete_after"] == "2999-01-01"
    assert "2999-01-01" in (made.folder / "card.html").read_text()
    today = "codex_ray.data.prepared_manifest.today"
    monkeypatch.setattr(today, lambda: date(2999, 1, 1))
    assert len(PreparedShards(made.folder).client(0).labels) == 3
    monkeypatch.setattr(today, lambda: date(2999, 1, 2))
    with pytest.raises(DataError, match="were to be deleted after 2999-01-01: delete"):
        PreparedShards(made.folder).client(0)


def test_nothing_is_prepared_whose_last_day_is_past(tmp_path):
    file = write_csv(tmp_path / "a.csv")
    refused(kept_until("2001-01-01", file), tmp_path, "delete_after: 2001-01-01 is past")


def test_a_schema_in_a_file_may_name_the_day_or_none(tmp_path):
    file = tmp_path / "schema.yaml"
    file.write_text(yaml.safe_dump(small_schema("a.csv")) + "delete_after: 2999-01-01\n")
    assert read_schema(str(file)).delete_after == date(2999, 1, 1)
    file.write_text(yaml.safe_dump(small_schema("a.csv")) + "delete_after: soon\n")
    with pytest.raises(ConfigError, match="delete_after"):
        read_schema(str(file))


# Ended from outside


def ends_itself():
    """The second time, a SIGTERM: the folder is half-written then."""
    CALLS.append(1)
    if len(CALLS) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return PIECE


def test_sigterm_leaves_nothing_behind(tmp_path):
    schema = small_schema("", source={"kind": "python", "factory": f"{ME}:ends_itself"})
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    arguments = ["data", "prepare", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out")]
    code = f"import sys; from codex_ray.cli import main; sys.exit(main({arguments!r}))"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["schema.yaml"]
