"""Adult, ten clients, k = 10 and l = 2: figures of pycanon, and no raw identifier in any file."""

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from adult import COUNTRY, EDUCATION, QUASI, RACE, SENSITIVE, adult_schema, write_twin
from pyarrow import parquet
from pycanon import anonymity as pycanon

from codex_ray.preparation.prepare import Prepared, prepare
from codex_ray.preparation.schema import Schema


@pytest.fixture(
    scope="module",
    params=["twin", pytest.param("adult", marks=[pytest.mark.data, pytest.mark.slow])],
)
def source(request, tmp_path_factory) -> Path:
    """The raw file: the twin, and Adult itself where a folder of data is named."""
    if request.param == "adult":
        return Path(os.environ["CODEX_RAY_DATA"]) / "adult" / "adult.data.gz"
    return write_twin(tmp_path_factory.mktemp("twin") / "adult.csv", records=3000)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Prepared:
    return prepare(Schema(**adult_schema(source)), tmp_path_factory.mktemp("adult") / "out")


def table_of(made: Prepared, client: int):
    """A client's shard as pycanon wants it: intervals as text, no value as a value of its own."""
    frame = parquet.read_table(made.folder / made.manifest.shards[client].file).to_pandas()
    frame["age"] = frame["age.low"].astype(str) + "-" + frame["age.high"].astype(str)
    frame["income"] = np.where(frame["income"] == 1, ">50K", "<=50K")
    return frame.fillna({"occupation": "?"})


def test_ten_clients_meet_the_bar_and_nobody_is_lost(source, made):
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt") as lines:
        records = sum(1 for line in lines if line.strip())
    assert len(made.holdings) == 10
    assert sum(h.records + h.suppressed for h in made.holdings) == records
    for holding in made.holdings:
        assert holding.figures.k >= 10
        assert min(holding.figures.l.values()) >= 2


def agrees(made: Prepared, client: int, sensitive: tuple[str, ...] = SENSITIVE) -> None:
    """Every figure of a client is pycanon's: gaps counted as a value, and left out."""
    frame = table_of(made, client)
    told = made.holdings[client].figures
    assert told.k == pycanon.k_anonymity(frame, list(QUASI))
    for column in sensitive:
        arguments = (frame, list(QUASI), [column])
        distinct, entropy = told.l_with_missing, told.entropy_l_with_missing
        assert distinct.get(column, told.l[column]) == pycanon.l_diversity(*arguments)
        found = entropy.get(column, told.entropy_l[column])
        assert int(found) == pycanon.entropy_l_diversity(*arguments)
        if column in distinct:
            known = (frame[frame[column] != "?"].reset_index(drop=True), list(QUASI), [column])
            assert told.l[column] == pycanon.l_diversity(*known)
            assert int(told.entropy_l[column]) == pycanon.entropy_l_diversity(*known)
        assert told.t[column] == pytest.approx(pycanon.t_closeness(*arguments), abs=1e-9)


def test_the_card_has_l_of_known_values_and_with_gaps_counted(made):
    card = json.loads((made.folder / "card.json").read_text())
    told, found = card["clients"][0]["anonymity"], made.holdings[0].figures
    assert told["l"] == found.l and told["l_with_missing"] == found.l_with_missing
    assert set(found.l_with_missing) == {"occupation"}
    assert found.l["occupation"] <= found.l_with_missing["occupation"]
    assert "a gap counted as a value" in (made.folder / "card.html").read_text()


def test_figures_are_those_of_pycanon(made):
    for client in (0, 9):
        agrees(made, client)


NUMBERS = ("hours-per-week", "capital-gain")


@pytest.fixture(scope="module")
def numeric(source, tmp_path_factory) -> Prepared:
    """Ten clients whose sensitive columns are an integer and a number, as well as the label."""
    schema = adult_schema(source)
    schema["columns"]["occupation"]["role"] = "feature"
    for name in NUMBERS:
        schema["columns"][name]["role"] = "sensitive"
    return prepare(Schema(**schema), tmp_path_factory.mktemp("numeric") / "out")


def test_figures_of_numbers_are_those_of_pycanon(numeric):
    """On a line, t is the distance that Li et al. 2007 call ordered, in section 5.1.2."""
    assert numeric.holdings[0].figures.classes > 3
    agrees(numeric, 0, (*NUMBERS, "income"))


@pytest.mark.slow
def test_figures_of_every_client_are_those_of_pycanon(made):
    for client in range(10):
        agrees(made, client)


def test_linking_on_quasi_identifiers_finds_nobody(source, made):
    """Whoever knows age, education, race, sex and country of a person is left with ten or more."""
    rows = _raw(source)
    groups = {"*": None} | _groups(EDUCATION)
    alone = 0
    for client in range(3):
        frame = table_of(made, client)
        classes = frame.groupby(list(QUASI), sort=False).size().reset_index()
        for age, education, race, sex, country in rows[:: max(1, len(rows) // 60)]:
            fits = 0
            for _, said in classes.iterrows():
                low, _, high = said["age"].partition("-")
                fits += said[0] * (
                    float(low) <= age <= float(high)
                    and (groups.get(said["education"], {said["education"]}) is None
                         or education in groups.get(said["education"], {said["education"]}))
                    and race in said["race"].split(" | ")
                    and sex in said["sex"].split(" | ")
                    and country in said["native-country"].split(" | ")
                )  # fmt: skip
            alone += 0 < fits < 10
    assert alone == 0


def test_no_raw_identifier_is_in_any_artefact(source, made):
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rb") as lines:
        weights = {line.split(b",")[2].strip() for line in lines if line.strip()}
    long = {weight for weight in weights if len(weight) >= 6}
    assert len(long) > 1000
    held = b"".join(_contents(made.folder))
    assert not _numbers(held) & long - _numbers((made.folder / "schema.json").read_bytes())
    for shard in made.manifest.shards:
        table = parquet.read_table(made.folder / shard.file)
        for column in table.itercolumns():
            values = {str(value).encode() for value in column.unique().to_pylist()}
            assert not values & long


def test_the_generalised_values_come_from_the_schema(made):
    for client in range(10):
        frame = table_of(made, client)
        for name, known in (("race", RACE), ("native-country", [*COUNTRY, "(none)"])):
            assert {v for said in frame[name].unique() for v in said.split(" | ")} <= set(known)


def _numbers(held: bytes) -> set[bytes]:
    """Long numbers, but for the digits inside of a hash or a fraction, which may be anything."""
    return set(re.findall(rb"(?<![0-9A-Za-z.])[0-9]{6,}(?![0-9A-Za-z])", held))


def _contents(folder: Path):
    """Every file, and the columns of every shard unpacked."""
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".parquet":
            for column in parquet.read_table(file).itercolumns():
                yield "".join(f'"{value}"' for value in column.unique().to_pylist()).encode()
        if file.is_file():
            yield file.read_bytes()


def _groups(tree) -> dict[str, set[str]]:
    found = {}
    for name, below in tree.items():
        inner = _groups(below) if isinstance(below, dict) else {}
        found |= inner
        found[name] = set().union(*inner.values()) if inner else set(below)
    return found


def _raw(source: Path) -> list[tuple]:
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt") as lines:
        cells = [line.strip().split(", ") for line in lines if line.strip()]
    return [(int(c[0]), c[3], c[8], c[9], "(none)" if c[13] == "?" else c[13]) for c in cells]
