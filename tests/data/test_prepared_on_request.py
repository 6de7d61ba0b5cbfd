"""Prepared shards are read when somebody asks for their client, and give what they always gave."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hospitals_prepared import FIELDS, run_on, three_hospitals

import codex_ray
from codex_ray.assembly import Assembled, assemble
from codex_ray.config import experiment_from, forget_findings, resolved
from codex_ray.data.flat import FlatDataset
from codex_ray.data.on_request import OnRequest
from codex_ray.data.prepared import PreparedData
from codex_ray.data.prepared_shards import PreparedShards, RawRecords
from codex_ray.data.preparing import Prepare
from codex_ray.data.stand_in import ROWS, StandIn, stand_in
from codex_ray.errors import ConfigError, DataError
from codex_ray.learning.local_noise import NoisedDataset, RandomisedResponse
from codex_ray.randomness import Randomness

PUBLIC = Randomness.of(0).public


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whose shards were read, in order."""
    found: list[int] = []
    real = PreparedShards.client

    def noting(shards: PreparedShards, client: int) -> RawRecords:
        found.append(client)
        return real(shards, client)

    monkeypatch.setattr(PreparedShards, "client", noting)
    return found


def source(folder: Path, **fields: Any) -> PreparedData:
    return PreparedData.model_validate(FIELDS | {"path": str(folder)} | fields)


def assembled(folder: Path, **more: Any) -> Assembled:
    return assemble(experiment_from(run_on(folder, **more)))


def test_a_client_that_is_asked_for_has_its_shard_read_alone_and_once(
    folder: Path, asked: list[int]
) -> None:
    data = source(folder).open(PUBLIC)
    assert data.population == 3 and asked == []
    first = data.client(1)
    assert data.client(1) is first and asked == [1]
    tables = source(folder).tables(PUBLIC)
    assert asked == [1]
    tables.numbers(2), tables.numbers(2)
    assert asked == [1, 2]
    with pytest.raises(DataError, match="client 3 does not exist"):
        data.client(3)


def test_the_test_set_is_read_from_one_shard_after_the_other_and_once(
    folder: Path, asked: list[int]
) -> None:
    data = source(folder).open(PUBLIC)
    assert data.test() is data.test() and asked == [0, 1, 2]
    asked.clear()
    one = source(folder, test_fraction=None, test_client="south").open(PUBLIC)
    assert len(one.test()) == 40 and asked == [1] and one.population == 2
    one.client(1)
    assert asked == [1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"missing": "drop"},
        {"test_fraction": None, "test_client": "south"},
        {"missing": "refuse", "prepare": Prepare(scaling="per_client", imputation="median")},
    ],
    ids=["fixed", "drop", "test client", "own figures"],
)
def test_records_are_those_of_all_tables_together(folder: Path, fields: dict[str, Any]) -> None:
    """As they were when every process read all of them, to the bit."""
    data, whole = source(folder, **fields).open(PUBLIC), source(folder, **fields)
    together = whole.tables(PUBLIC).dataset(whole.preparation)
    flat = FlatDataset.of(data, most=1e9)
    assert flat is not None
    for client in reversed(range(data.population)):
        for other in (together, flat):
            np.testing.assert_array_equal(
                data.client(client).features, other.client(client).features
            )
            np.testing.assert_array_equal(data.client(client).labels, other.client(client).labels)
    np.testing.assert_array_equal(data.test().features, together.test().features)
    np.testing.assert_array_equal(data.test().labels, together.test().labels)
    found = [len(data.client(client)) for client in range(data.population)]
    sizes = list(data.sizes)
    assert sizes == found if fields.get("missing") != "drop" else sizes > found


def test_what_no_shard_is_needed_for_is_refused_at_once(folder: Path, asked: list[int]) -> None:
    with pytest.raises(DataError, match=r"data.test_fraction: 0.001 of such small clients"):
        source(folder, test_fraction=0.001).open(PUBLIC)
    with pytest.raises(ConfigError, match=r"data.test_client: 'nobody'"):
        source(folder, test_fraction=None, test_client="nobody").open(PUBLIC)
    with pytest.raises(DataError, match="these are other records than the run began with"):
        source(folder, manifest="0" * 64).open(PUBLIC)
    alone = {"centre": [[0.0]], "spread": [[1.0]], "fill": [[0.0]]}
    found = {"scaling": "pooled", "imputation": "mean", "statistics": {"columns": ["x"]} | alone}
    with pytest.raises(DataError, match=r"data.prepare.statistics are of x, but the columns are"):
        source(folder, missing="refuse", prepare=found).open(PUBLIC)
    assert asked == []


def test_records_whose_last_day_is_past_are_refused_before_any_is_read(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = three_hospitals(tmp_path / "hospitals", delete_after="2999-01-01")
    source(kept).open(PUBLIC)
    monkeypatch.setattr("codex_ray.data.prepared_manifest.today", lambda: date(2999, 1, 2))
    with pytest.raises(DataError, match="were to be deleted after 2999-01-01"):
        source(kept).open(PUBLIC)
    assert asked == []


def test_an_experiment_is_put_together_and_its_plan_settled_without_a_record(
    folder: Path, asked: list[int]
) -> None:
    made = assembled(folder, plan={"kernel": "vectorised"}).settled(gpus=0)
    made.check_files()
    assert asked == [] and made.dataset.population == 3
    shown = stand_in(made.dataset)
    assert [len(shown.client(one)) for one in range(3)] == [30, 30, 30]
    assert shown.client(0).features.shape[1:] == made.dataset.client(0).features.shape[1:]
    assert asked == [0] and np.abs(shown.client(0).features).max() <= 1
    assert {*shown.test().labels.tolist()} == {0, 1, 2}


def test_a_client_of_whom_nothing_would_be_left_is_found_before_a_run(tmp_path: Path) -> None:
    folder = three_hospitals(tmp_path, without_weight="south")
    data = source(folder, missing="drop").open(PUBLIC)
    with pytest.raises(DataError, match="client 'south': no record is complete: none has 'weight'"):
        data.check()  # type: ignore[attr-defined]  # prepared clients have it
    source(folder, missing="drop", features=("age",)).open(PUBLIC).check()  # type: ignore[attr-defined]


def test_what_stands_in_is_small_whatever_it_stands_for() -> None:
    made = StandIn([10, 10_000_000], 3, 2)
    assert len(made.client(1)) == 10_000_000 and len(made.client(0)) == 10
    assert len(made.test()) == ROWS and made.test().labels[0] == 1


def test_columns_that_no_feature_is_made_of_are_not_decoded(folder: Path) -> None:
    shards = PreparedShards(folder)
    assert sorted(shards._columns) == ["age", "smoker", "stage", "weight"]


def test_what_stands_for_noised_records_has_noise_of_its_own(folder: Path) -> None:
    """Made-up records are known to all: beside them the noise of the real ones would show."""
    shown = NoisedDataset(
        source(folder).open(PUBLIC), RandomisedResponse(epsilon=1.0), Randomness.of(0).secret
    )
    below = shown.stand_in
    assert isinstance(below, NoisedDataset)
    assert below.secret.key("noise", 0) != shown.secret.key("noise", 0)


def test_what_a_run_found_out_is_all_that_tells_it_from_what_was_asked(folder: Path) -> None:
    """A sweep that goes on knows a trial's run again by it; it was refused for its manifest."""
    config = run_on(folder)
    scaled = FIELDS | {"prepare": {"scaling": "pooled"}}
    config["data"] = config["data"] | scaled | {"missing": "middle"}
    run = assemble(experiment_from(config))
    asked, held = resolved(run.experiment), resolved(run.settled(gpus=0).experiment)
    assert held["data"]["manifest"] and held["data"]["prepare"]["statistics"]
    for mapping in (asked, held):
        forget_findings(mapping)
    assert held["data"] == asked["data"]


def test_a_model_of_too_few_classes_is_refused_by_the_manifest(
    folder: Path, asked: list[int]
) -> None:
    with pytest.raises(DataError, match="label 2 does not fit a model of 1 output"):
        assembled(folder, model={"kind": "linear"})
    noise = {"kind": "randomised_response", "epsilon": 1.0}
    with pytest.raises(DataError, match=r"local_noise.classes is 2, but there is a label 2"):
        assembled(folder, local_noise=noise)
    made = assembled(folder, local_noise=noise | {"classes": 3})
    assert isinstance(made.dataset, NoisedDataset) and asked == []
    made.check_files()


def test_a_bad_shard_is_found_before_a_run_leaves_anything(tmp_path: Path) -> None:
    bad = three_hospitals(tmp_path / "hospitals")
    file = bad / "shards/client-000002.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"client-000002\.parquet: is not the file of its manifes"):
        codex_ray.run(run_on(bad), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Block(bytes):
    """Something of so many bytes."""

    @property
    def nbytes(self) -> int:
        return len(self)


def test_what_does_not_fit_is_made_again_the_oldest_first() -> None:
    made: list[int] = []

    def make(place: int) -> Block:
        made.append(place)
        return Block(10 * (place + 1))

    some = OnRequest(4, make, most=40)
    assert some.missed and [len(some[place]) for place in (0, 1, 0)] == [10, 20, 10]
    assert made == [0, 1] and not some.missed
    assert len(some[-1]) == 40 and some.missed  # and nothing else has room
    assert len(some[3]) == 40 and made == [0, 1, 3]
    assert [len(one) for one in some[:2]] == [10, 20] and made == [0, 1, 3, 0, 1]
    kept_nothing = OnRequest(1, make, most=0)
    assert kept_nothing[0] is not kept_nothing[0]
    with pytest.raises(IndexError):
        some[4]


def test_two_threads_may_ask_at_once() -> None:
    some = OnRequest(50, lambda place: Block(place + 1), most=300)
    wrong: list[int] = []

    def ask() -> None:
        wrong.extend(one for turn in range(40) for one in range(50) if len(some[one]) != one + 1)

    threads = [Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and some._bytes == sum(len(one) for one in some._kept.values()) <= 300
