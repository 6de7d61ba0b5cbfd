"""The same records give the same shards, whatever they come in, and whoever deals them out."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from small import GOOD, HEADER, many, small_schema, write_csv

from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.csv_files import CsvSource
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.pseudonyms import PseudonymKey
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.sources import ParquetSource

KEY = PseudonymKey(bytes(32))
LINES = many(300)


def columns() -> dict[str, list]:
    cells = zip(*(line.split(",") for line in LINES), strict=True)
    found = dict(zip(HEADER.split(","), map(list, cells), strict=True))
    found["age"] = [int(value) for value in found["age"]]
    found["weight"] = [float(value) for value in found["weight"]]
    found["ill"] = [value == "1" for value in found["ill"]]
    return found


def shard(tmp_path, source: dict, name: str) -> pa.Table:
    schema = Schema(**small_schema("", source=source))
    made = prepare(schema, tmp_path / name, key=KEY)
    return parquet.read_table(made.folder / made.manifest.shards[0].file)


@pytest.fixture
def expected(tmp_path) -> pa.Table:
    file = write_csv(tmp_path / "a.csv", LINES)
    return shard(tmp_path, {"kind": "csv", "files": str(file)}, "expected")


def factory(**args):
    """What a user's function may yield."""
    whole = columns()
    for start in range(0, 300, args.get("step", 100)):
        yield {
            name: values[start : start + args.get("step", 100)] for name, values in whole.items()
        }


def broken(**args):
    return {"patient": ["a", "b"], "age": [1]}


def test_parquet_npz_and_a_function_give_what_csv_gives(tmp_path, expected):
    table = pa.table(columns())
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    np.savez(tmp_path / "a.npz", **{name: np.array(v) for name, v in columns().items()})
    for name, source in {
        "parquet": {"kind": "parquet", "files": str(tmp_path / "a.parquet")},
        "npz": {"kind": "npz", "files": str(tmp_path / "a.npz")},
        "python": {"kind": "python", "factory": f"{__name__}:factory"},
        "python2": {"kind": "python", "factory": f"{__name__}:columns"},
    }.items():
        assert shard(tmp_path, source, name).equals(expected), name


def test_a_saved_hugging_face_folder_is_read_without_its_library(tmp_path, expected):
    """Laid out as `Dataset.save_to_disk` does: Arrow streams, named in state.json."""
    table = pa.table({n: pa.array(v) for n, v in columns().items()})
    for folder in (tmp_path / "plain", tmp_path / "several" / "train"):
        folder.mkdir(parents=True)
        names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
        for name, part in zip(names, (table[:120], table[120:]), strict=True):
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(part, max_chunksize=50)
        state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
        (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "several" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    source = {"kind": "hugging_face", "files": str(tmp_path / "plain")}
    assert shard(tmp_path, source, "one").equals(expected)
    source = {"kind": "hugging_face", "files": str(tmp_path / "several"), "split": "train"}
    assert shard(tmp_path, source, "two").equals(expected)
    with pytest.raises(ConfigError, match=r"source.split: .* holds train: name one"):
        shard(tmp_path, source | {"split": "test"}, "three")


def test_a_folder_is_one_client_with_all_its_files(tmp_path):
    for name, part in (
        ("bonn/a", LINES[:100]),
        ("bonn/b", LINES[100:150]),
        ("koeln/a", LINES[150:]),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_csv(tmp_path / f"{name}.csv", part)
    files = [str(tmp_path / "bonn"), str(tmp_path / "koeln")]
    made = prepare(Schema(**small_schema(files)), tmp_path / "out")
    assert [(h.name, h.records) for h in made.holdings] == [("bonn", 150), ("koeln", 150)]


def test_files_of_one_name_in_two_folders_are_two_clients(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "ward.csv", LINES)
    made = prepare(Schema(**small_schema(str(tmp_path / "[ab]/*.csv"))), tmp_path / "out")
    assert [h.name for h in made.holdings] == ["a/ward", "b/ward"]


DEALS = {
    "iid": ({"kind": "iid", "clients": 7}, [43, 43, 43, 43, 43, 43, 42]),
    "dirichlet": ({"kind": "dirichlet", "clients": 4, "alpha": 0.3}, [75] * 4),
    "size": ({"kind": "size", "clients": 5, "records": [20, 60]}, None),
    "column": ({"kind": "column", "column": "city"}, None),
}


@pytest.mark.parametrize(("deal", "sizes"), DEALS.values(), ids=DEALS)
def test_a_deal_gives_every_record_to_one_client_at_most(tmp_path, deal, sizes):
    file = write_csv(tmp_path / "a.csv", LINES)
    made = prepare(Schema(**small_schema(str(file), clients=deal)), tmp_path / "out", key=KEY)
    found = []
    for said in made.manifest.shards:
        table = parquet.read_table(made.folder / said.file)
        assert table.num_rows == said.records
        found += table["patient"].to_pylist()
    assert len(found) == len(set(found)) <= 300
    if deal["kind"] != "size":
        assert len(found) == 300
    assert sizes is None or [said.records for said in made.manifest.shards] == sizes
    if deal["kind"] == "size":
        assert all(20 <= said.records <= 60 for said in made.manifest.shards)


def test_clients_with_long_numbers_are_as_many_as_there_are_numbers(tmp_path):
    """Seven digits were rounded to six: two hospitals became one."""
    numbers = [1234567, 1234568, 999999]
    lines = [
        line.rsplit(",", 2)[0] + f",{n},{n % 2}" for line, n in zip(GOOD, numbers, strict=True)
    ]
    file = write_csv(tmp_path / "a.csv", lines)
    schema = small_schema(
        str(file), clients={"kind": "column", "column": "billing"}, smallest_cell=1
    )
    made = prepare(Schema(**schema), tmp_path / "out")
    assert sorted(shard.client for shard in made.manifest.shards) == sorted(map(str, numbers))


def test_a_column_names_the_clients_unless_it_is_an_identifier(tmp_path):
    file = write_csv(tmp_path / "a.csv", LINES)
    by_city = small_schema(str(file), clients={"kind": "column", "column": "city"})
    made = prepare(Schema(**by_city), tmp_path / "city")
    assert [h.name for h in made.holdings] == ["Aachen", "Bonn", "Koeln"]
    for said in made.manifest.shards:
        table = parquet.read_table(made.folder / said.file)
        assert set(table["city"].to_pylist()) == {said.client}
    by_person = small_schema(
        str(file), clients={"kind": "column", "column": "patient"}, smallest_cell=1
    )
    made = prepare(Schema(**by_person), tmp_path / "person")
    assert len(made.holdings) == 300
    assert made.holdings[0].name == "client 0"
    assert b"Person-0" not in (made.folder / "manifest.json").read_bytes()


def test_a_dirichlet_deal_makes_unlike_clients(tmp_path):
    file = write_csv(tmp_path / "a.csv", LINES)
    deal = {"kind": "dirichlet", "clients": 4, "alpha": 0.1}
    made = prepare(Schema(**small_schema(str(file), clients=deal)), tmp_path / "out")
    shares = [h.labels[1] / h.records for h in made.holdings]
    assert max(shares) - min(shares) > 0.4


def test_a_deal_with_more_clients_than_records_is_refused(tmp_path):
    file = write_csv(tmp_path / "a.csv", LINES)
    schema = small_schema(str(file), clients={"kind": "iid", "clients": 301})
    with pytest.raises(DataError, match="fewer records than clients"):
        prepare(Schema(**schema), tmp_path / "out")


def test_columns_of_different_lengths_are_refused(tmp_path):
    source = {"kind": "python", "factory": f"{__name__}:broken"}
    with pytest.raises(DataError, match="columns differ in length"):
        shard(tmp_path, source, "out")


def test_a_row_group_is_never_held_whole(tmp_path):
    """One row group of 48 MiB in three columns: Arrow would read a column of it at once."""
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.random(1 << 21) for name in "abc"})
    file = tmp_path / "one.parquet"
    parquet.write_table(
        table, file, row_group_size=1 << 21, use_dictionary=False, compression="none"
    )
    del table
    source = ParquetSource(files=str(file))
    before, most = pa.total_allocated_bytes(), 0
    for batch in source.batches(source.units()[0], report=print):
        most = max(most, pa.total_allocated_bytes() - before)
        assert batch.columns.keys() == set("abc")
    assert most < 16 * 2**20, f"{most / 2**20:.0f} MiB"


def test_a_file_without_line_breaks_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "one.csv"
    file.write_bytes(b"a" * (3 << 20))
    source = CsvSource(files=str(file))
    with pytest.raises(DataError, match=r"one\.csv: its line of names is longer than 1 MiB"):
        next(source.batches(source.units()[0], report=print))
