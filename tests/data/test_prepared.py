"""Prepared shards as a data set: encoded by their manifest, and refused when anything differs."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from codex_ray.data.prepared import PreparedData
from codex_ray.data.prepared_shards import PreparedShards
from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema
from codex_ray.randomness import Randomness

PUBLIC = Randomness.of(0).public
COUNTRIES = {"west": {"low": ["NL", "BE"], "high": ["CH"]}, "east": ["PL", "CZ"]}
SCHEMA = {
    "name": "two",
    "purpose": "study",
    "consents": {"c": ["study"]},
    "consent": "c",
    "anonymity": {"k": 4},
    "columns": {
        "id": {"type": "text", "role": "identifier", "pseudonym": True},
        "age": {"type": "integer", "role": "quasi_identifier", "range": [0, 100]},
        "country": {"type": "category", "role": "quasi_identifier", "hierarchy": COUNTRIES},
        "weight": {"type": "number", "role": "feature", "range": [0, 200], "required": False},
        "team": {"type": "category", "role": "feature", "values": ["a", "b"], "required": False},
        "smoker": {"type": "flag", "role": "feature"},
        "note": {"type": "text", "role": "feature", "required": False},
        "ill": {"type": "integer", "role": "label", "range": [0, 4], "positive_above": 0},
    },
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two clients of forty records."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        lines = ["id,age,country,weight,team,smoker,note,ill"]
        for i in range(40):
            country = ("NL", "BE", "CH", "PL", "CZ")[rng.integers(5)]
            weight, team = ("", "") if i == 0 else (f"{rng.integers(50, 99)}", "ab"[i % 2])
            lines.append(
                f"p{name}{i},{rng.integers(20, 80)},{country},{weight},{team},{i % 2},x,{i % 3}"
            )
        (folder / f"{name}.csv").write_text("\n".join(lines))
    source = {"kind": "csv", "files": str(folder / "*.csv")}
    return prepare(Schema(**SCHEMA, source=source), folder / "out").folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy to break."""
    return shutil.copytree(original, tmp_path / "copy")


def source(folder, **fields) -> PreparedData:
    settings = {"path": str(folder), "purpose": "study", "missing": "middle", "test_fraction": 0.25}
    return PreparedData(**(settings | fields))


def read(folder, **fields) -> None:
    """Opens the folder, and asks for everybody's records."""
    data = source(folder, **fields).open(PUBLIC)
    for client in range(data.population):
        data.client(client)
    data.test()


def checked(folder, **fields) -> None:
    """Opens the folder, and looks at its files as a run does that begins."""
    source(folder, **fields).open(PUBLIC).check()


def test_features_are_what_the_manifest_names(original):
    shards = PreparedShards(original)
    raw = shards.client(0)
    table = parquet.read_table(original / "shards/client-000000.parquet").to_pydict()
    places = {name: place for place, name in enumerate(shards.feature_names)}
    assert list(places) == [
        *("age", "country=NL", "country=BE", "country=CH", "country=PL", "country=CZ"),
        *("weight", "team=a", "team=b", "smoker"),
    ]
    middle = (np.array(table["age.low"]) + np.array(table["age.high"])) / 2
    np.testing.assert_array_equal(raw.features[:, places["age"]], middle)
    assert np.isnan(raw.features[0, places["weight"]])
    assert raw.features[0, [places["team=a"], places["team=b"]]].tolist() == [0, 0]
    assert raw.features[2, [places["team=a"], places["team=b"]]].tolist() == [1, 0]
    assert raw.labels.tolist() == [int(i % 3 > 0) for i in range(40)]
    groups = {"*": "NL BE CH PL CZ", "west": "NL BE CH", "low": "NL BE", "high": "CH",
              "east": "PL CZ"}  # fmt: skip
    assert set(table["country"]) & set(groups)
    for row, said in enumerate(table["country"]):
        values = groups.get(said, said).split()
        for country in ("NL", "BE", "CH", "PL", "CZ"):
            share = 1 / len(values) if country in values else 0
            assert raw.features[row, places[f"country={country}"]] == share


def test_numbers_are_scaled_by_public_ranges_and_categories_are_not(original):
    data = source(original).open(PUBLIC)
    assert data.population == 2 and len(data.test()) == 20 and len(data.client(0)) == 30
    values = np.concatenate([data.client(0).features, data.client(1).features])
    raw = PreparedShards(original)
    line = np.flatnonzero(raw.on_a_line)
    assert line.tolist() == [0, 6]
    whole = np.concatenate([raw.client(c).features for c in range(2)])[:, 0] / 50 - 1
    assert set(np.unique(values[:, 0])) <= set(whole.astype(np.float32))
    assert values[:, 1:6].sum(axis=1) == pytest.approx(1)
    assert set(np.unique(values[:, 9])) == {0, 1}


def test_missing_numbers_are_refused_dropped_or_put_in_the_middle(original):
    with pytest.raises(DataError, match=r"client 'a': 1 records lack a number, .* 'weight'"):
        read(original, missing="refuse")
    with pytest.raises(DataError, match=r"client 'a': 1 records lack 'weight': set data.missing"):
        checked(original, missing="refuse")
    client = {"test_client": "b", "test_fraction": None}
    dropped = source(original, missing="drop", **client).open(PUBLIC)
    assert len(dropped.client(0)) == len(dropped.test()) == 39
    kept = source(original, missing="middle", **client).open(PUBLIC)
    assert kept.client(0).features[0, 6] == 0 and len(kept.client(0)) == 40
    without = source(original, missing="refuse", features=("age", "smoker"), **client).open(PUBLIC)
    assert without.client(0).features.shape == (40, 2)


def test_a_run_for_another_purpose_is_refused(original):
    with pytest.raises(ConfigError, match=r"data.purpose: .* prepared for 'study', not for 'ads'"):
        source(original, purpose="ads").open(PUBLIC)
    with pytest.raises(ValueError, match="purpose"):
        PreparedData(path=str(original), test_fraction=0.2)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"features": ("aeg",)}, "did you mean 'age'"),
        ({"features": ("age", "age")}, "name each column once"),
        ({"test_client": "c", "test_fraction": None}, "data.test_client: 'c'"),
    ],
)
def test_names_that_are_unknown_are_refused(original, fields, match):
    with pytest.raises(ConfigError, match=match):
        source(original, **fields).open(PUBLIC)


def test_a_test_set_comes_from_exactly_one_place(original):
    for fields in ({"test_client": "a"}, {"test_fraction": None}):
        with pytest.raises(ConfigError, match="set exactly one"):
            source(original, **fields)


def test_any_changed_byte_of_any_file_that_counts_is_found(folder):
    for name in ("shards/client-000001.parquet", "schema.json", "card.json"):
        file = folder / name
        content = file.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            for look in (read, checked):
                with pytest.raises(DataError, match=f"{file.name}: is not the file of its man"):
                    look(folder)
        file.write_bytes(content[:-1])
        for look in (read, checked):
            with pytest.raises(DataError, match="is not the file of its manifest"):
                look(folder)
        file.write_bytes(content)
    for look in (read, checked):
        look(folder)


@pytest.mark.parametrize("look", [read, checked])
def test_swapped_and_lost_shards_are_found(folder, look):
    one, other = (folder / f"shards/client-00000{n}.parquet" for n in (0, 1))
    one.rename(folder / "x")
    with pytest.raises(DataError, match=r"client-000000\.parquet: cannot be read"):
        look(folder)
    other.rename(one)
    (folder / "x").rename(other)
    with pytest.raises(DataError, match="is not the file of its manifest"):
        look(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][0].update(file="../a.parquet"),
        lambda m: m["shards"][0].update(file="/etc/passwd"),
        lambda m: m.update(version=2),
        lambda m: m.pop("purpose"),
        lambda m: m.update(more=1),
    ],
)
def test_a_manifest_of_another_shape_is_refused(folder, change):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is no manifest of this version"):
        source(folder).open(PUBLIC)


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("weight", [999.0] * 40, "column 'weight' leaves its range"),
        ("ill", [7] * 40, "a label is outside 0 to 1"),
        ("team", ["c"] * 40, "'c' is not in the manifest"),
        ("smoker", None, "has no column 'smoker'"),
    ],
)
def test_shards_that_do_not_hold_what_the_manifest_says_are_refused(
    folder, column, values, match, monkeypatch
):
    """Whoever writes a shard and its hash anew still has to keep to the encoding."""
    file = folder / "shards/client-000000.parquet"
    table = parquet.read_table(file)
    place = table.column_names.index(column)
    table = table.remove_column(place)
    if values is not None:
        table = table.append_column(column, pa.array(values))
    parquet.write_table(table, file)
    _sign_anew(folder, file)
    with pytest.raises(DataError, match=match):
        read(folder)


def test_a_shard_with_records_more_or_less_is_refused(folder):
    file = folder / "shards/client-000000.parquet"
    parquet.write_table(parquet.read_table(file)[:39], file)
    _sign_anew(folder, file)
    with pytest.raises(DataError, match="39 records, but its manifest says otherwise"):
        read(folder)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no manifest.json: make the folder with codex-ray"):
        source(tmp_path).open(PUBLIC)


def _sign_anew(folder, file) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
