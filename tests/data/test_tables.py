"""CSV files: what can be read, and what every refusal says."""

import gzip

import numpy as np
import pytest

from codex_ray.data.tables import CsvFiles
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness

RANGES = {"age": (0, 100), "dose": (0, 10)}
NORTH = "age,dose,note,sick\n50,5,x,1\n100,0,y,0\n0,10,z,1\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "north.csv").write_text(NORTH)
    (tmp_path / "south.csv").write_text(NORTH.replace("50,5", "25,2.5"))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test.csv").write_text(NORTH)
    return tmp_path


def opened(seed=0, **fields):
    settings = {"files": "*.csv", "label": "sick", "ranges": RANGES, "test_file": "test/test.csv"}
    return CsvFiles(**(settings | fields)).open(Randomness.of(seed).public)


def test_files_become_clients_in_alphabetical_order(folder):
    data = opened()
    assert data.population == 2
    assert np.array_equal(data.client(0).features, np.array([[0, 0], [1, -1], [-1, 1]], np.float32))
    assert np.array_equal(data.client(1).features[0], np.array([-0.5, -0.5], np.float32))
    assert data.client(1).labels.tolist() == [1, 0, 1]
    assert len(data.test()) == 3


def test_listed_files_keep_their_order_and_may_be_packed(folder):
    (folder / "west.csv.gz").write_bytes(gzip.compress(("\ufeff" + NORTH).encode()))
    data = opened(files=["south.csv", "west.csv.gz"])
    assert data.client(0).features[0, 0] == -0.5
    assert data.client(1).features[0, 0] == 0.0


def test_without_header_columns_are_numbers(folder):
    (folder / "bare.data").write_text("1;50;5\n\n0;100;0\n")
    data = opened(
        files=["bare.data"],
        header=False,
        delimiter=";",
        label=0,
        ranges={2: [0, 10]},
        test_file=None,
        test_fraction=0.5,
    )
    assert len(data.client(0)) == len(data.test()) == 1


def test_missing_values_drop_only_where_they_are_used(folder):
    (folder / "gaps.csv").write_text(
        "age,dose,note,sick\n?,5,,1\n1,2,,0\n3, ,,1\n4,5,,?\n5,nan,,1\n"
    )
    data = opened(files=["gaps.csv"], missing="drop")
    assert data.client(0).labels.tolist() == [0]


def test_graded_labels_become_a_yes_or_no(folder):
    (folder / "graded.csv").write_text("age,dose,sick\n1,1,0\n1,1,1\n1,1,4\n1,1,-1\n")
    data = opened(files=["graded.csv"], positive_above=0)
    assert data.client(0).labels.tolist() == [0, 1, 1, 0]


def test_held_out_fraction_is_drawn_by_the_seed_and_leaves_the_clients(folder):
    rows = "".join(f"{i},1,{i % 2}\n" for i in range(100))
    (folder / "many.csv").write_text("age,dose,sick\n" + rows)
    settings = {"files": ["many.csv"], "test_file": None, "test_fraction": 0.2}
    data, again, other = (opened(seed, **settings) for seed in (0, 0, 1))
    assert len(data.test()) == 20
    assert data.test().labels.sum() == 10
    ages = np.concatenate([data.client(0).features[:, 0], data.test().features[:, 0]])
    assert len(np.unique(ages)) == 100
    assert np.array_equal(data.test().features, again.test().features)
    assert not np.array_equal(data.test().features, other.test().features)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "age,dose,sick\n1,?,0\n",
            r"bad\.csv line 2, column 'dose': the value '\?' is missing: set",
        ),
        ("age,dose,sick\n1,nan,0\n", "line 2, column 'dose': the value 'nan' is missing"),
        ("age,dose,sick\n1,2,0\n1,inf,0\n", "line 3, column 'dose': 'inf' is not finite"),
        ("age,dose,sick\n1,high,0\n", "line 2, column 'dose': 'high' is no number"),
        ("age,dose,sick\n1,2,0.5\n", "line 2, column 'sick': the label 0.5 is no integer"),
        ("age,dose,sick\n1,2,-1\n", "the label -1 is no integer from 0.*positive_above"),
        ("age,dose,sick\n1,2\n", "line 2: it has 2 columns, but the first line has 3"),
        ("age,dose,sick\n", r"bad\.csv: it has no complete record"),
        ("", r"bad\.csv: it is empty"),
        ("age,dosis,sick\n1,2,0\n", r"data\.ranges\.dose: bad\.csv has no .*did you mean 'dosis'"),
        ("age,dose,sik\n1,2,0\n", r"data\.label: bad\.csv has no column 'sick': .*'sik'"),
    ],
)
def test_bad_text_is_refused_with_its_place(folder, text, message):
    (folder / "bad.csv").write_text(text)
    with pytest.raises((DataError, ConfigError), match=message):
        opened(files=["bad.csv"])


def test_files_that_are_no_csv_text(folder):
    (folder / "packed.csv.gz").write_bytes(b"no gzip at all")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("packed.csv.gz", "binary.csv"):
        with pytest.raises(DataError, match=f"{name}: it cannot be read as CSV text"):
            opened(files=[name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"files": ["nort.csv"]},
            r"nort\.csv is no file; \./ holds north.*did you mean 'north.csv'",
        ),
        ({"files": "data/*.csv"}, r"data\.files: no file matches data/\*\.csv; \./ holds north"),
        ({"files": "test"}, r"test is a folder: write a pattern such as test/\*\.csv"),
        ({"files": ["north.csv", "./north.csv"]}, "a file is listed twice"),
        ({"test_file": "north.csv"}, "north.csv is also a client's file"),
        ({"test_fraction": 0.5}, "set exactly one"),
        ({"test_file": None}, "set exactly one"),
        ({"label": "age"}, r"data\.ranges\.age: this column is the label"),
        ({"header": False}, "column numbers"),
        ({"test_file": None, "test_fraction": 0.01}, "holds out no record"),
    ],
)
def test_bad_settings_are_refused(folder, fields, message):
    with pytest.raises((DataError, ConfigError), match=message):
        opened(**fields)
