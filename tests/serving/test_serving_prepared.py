"""A model of prepared records is asked in the words of their schema, and sees what training saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest

import codex_ray
from codex_ray.config import experiment_from
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema
from codex_ray.randomness import Randomness
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry import Registry, RegistryError, ServedModel, rebuild
from codex_ray.serving.from_registry import Source
from codex_ray.serving.http import Refused
from codex_ray.serving.inputs import Input, Inputs
from codex_ray.serving.openapi import document
from codex_ray.serving.prepared_inputs import prepared_inputs

NAMES = ("age", "city", "weight", "smoker", "seen")
POOLED = {
    "scaling": "pooled",
    "by": "moments",
    "imputation": "mean",
    "cut": 1.5,
    "statistics": {
        "columns": ["age", "weight", "smoker", "seen"],
        "centre": [[50.0, 75.0, 0.4, 17_000.0]],
        "spread": [[15.0, 12.0, 0.5, 900.0]],
        "fill": [[50.0, 75.0, 0.4, 17_000.0]],
    },
}


def schema(files: list[str]) -> Schema:
    return Schema.model_validate(
        {
            "name": "small",
            "purpose": "care-study",
            "consents": {"study": ["care-study"]},
            "consent": "study",
            "smallest_cell": 2,
            "source": {"kind": "csv", "files": files},
            "columns": {
                "age": {"type": "integer", "role": "feature", "range": [0, 110], "unit": "years"},
                "city": {"type": "category", "role": "feature", "values": ["Bonn", "Koeln", "Ulm"]},
                "weight": {
                    **{"type": "number", "role": "feature", "range": [2, 300], "unit": "kg"},
                    "required": False,
                },
                "smoker": {"type": "flag", "role": "feature"},
                "seen": {"type": "date", "role": "feature", "range": ["2000-01-01", "2025-12-31"]},
                "ill": {"type": "category", "role": "label", "values": ["well", "ill"]},
            },
        }
    )


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Records as people would give them."""
    rng = np.random.default_rng(seed)
    return [
        {
            "age": int(rng.integers(18, 95)),
            "city": ("Bonn", "Koeln", "Ulm")[rng.integers(3)],
            "weight": None if rng.random() < 0.2 else round(rng.normal(75, 12), 1),
            "smoker": int(rng.integers(2)),
            "seen": f"20{rng.integers(10, 25)}-0{rng.integers(1, 9)}-1{rng.integers(9)}",
        }
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Shelf:
    """A registered model of prepared records, and the records of its first client."""

    source: Source
    found: ServedModel
    records: list[dict[str, Any]]

    def trained_on(self, config: dict[str, Any]) -> np.ndarray[Any, Any]:
        """The first client's features [n, d], as a run with these data sees them."""
        data = experiment_from(config).data
        return np.asarray(data.open(Randomness.of(1).public).client(0).features)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("prepared")
    files = []
    for number, count in enumerate((60, 40, 30, 30)):
        file = folder / f"{number}.csv"
        lines = [",".join((*NAMES, "ill"))]
        for place, row in enumerate(rows(count, number)):
            cells = ["" if value is None else str(value) for value in row.values()]
            lines.append(",".join([*cells, ("well", "ill")[place % 3 == 0]]))
        file.write_text("\n".join(lines) + "\n")
        files.append(str(file))
    made = prepare(schema(files), folder / "prepared")
    config = {
        "name": "prepared",
        "rounds": 2,
        "seed": 1,
        "data": {
            "kind": "prepared",
            "path": str(made.folder),
            "purpose": "care-study",
            "missing": "middle",
            "test_client": made.manifest.shards[3].client,
        },
        "model": {"kind": "mlp", "hidden": [3], "outputs": 2},
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
        "federation": {"protocol": {"kind": "ideal"}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "keys"))
        key, _ = make_keys(folder / "keys")
        registry = Registry.create(folder / "models", key=key)
        codex_ray.run(config, out=folder / "run")
        registry.register(folder / "run", "care")
        registry.promote("care", 1, unsafe=["allow_uncertified"])
    source = Source(folder / "models", (key.public,), "care")
    return Shelf(source, registry.load("care"), rows(60, 0))


def test_what_it_takes_is_what_the_schema_says(shelf: Shelf) -> None:
    served = shelf.source.open().load()
    kinds = {it.name: (it.kind, it.unit) for it in served.schema.features}
    assert kinds == {
        "age": ("integer", "years"),
        "city": ("category", ""),
        "weight": ("number", "kg"),
        "smoker": ("integer", ""),
        "seen": ("date", ""),
    }
    assert tuple(kinds) == NAMES
    assert served.labels == ("well", "ill")
    ranges = {it.name: (it.low, it.high) for it in served.schema.features}
    assert (ranges["age"], ranges["weight"], ranges["smoker"]) == ((0, 110), (2, 300), (0, 1))


def test_it_sees_what_training_saw(shelf: Shelf) -> None:
    """From raw values to probabilities, beside the features of the run itself."""
    served = shelf.source.open().load()
    asked = served.schema.read({"records": shelf.records})
    model = rebuild(shelf.found)
    features = shelf.trained_on(dict(shelf.found.config))
    import torch

    with torch.no_grad():
        logits = model.module(torch.from_numpy(features)).double()
    expected = torch.softmax(logits, dim=1).numpy()
    np.testing.assert_allclose(served.predict(asked), expected, atol=1e-6)
    in_order = [[row[name] for name in NAMES] for row in shelf.records]
    np.testing.assert_array_equal(served.schema.read({"records": in_order}), asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"prepare": POOLED},
        {"prepare": POOLED | {"imputation": "middle"}},
        {"features": ["seen", "weight", "city"]},
    ],
    ids=["pooled", "pooled, middle", "some columns"],
)
def test_however_numbers_were_scaled(shelf: Shelf, changes: dict[str, Any]) -> None:
    data: dict[str, Any] = {**dict(shelf.found.config["data"]), **changes}
    if "prepare" in changes:
        data["missing"] = "refuse"
    config = {**dict(shelf.found.config), "data": data}
    inputs = prepared_inputs(replace(shelf.found, config=config))
    assert inputs is not None
    expected = shelf.trained_on(config)
    shape = (expected.shape[1],)
    names = [it.name for it in inputs.inputs]
    records = [{name: row[name] for name in names} for row in shelf.records]
    asked = inputs.schema_for(shape).read({"records": records})
    np.testing.assert_allclose(inputs.scaler(shape)(asked), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"city": "Rome"}, "not one of its values"),
        ({"city": 0}, "not one of its values"),
        ({"age": 41.5}, "not an integer"),
        ({"age": 111}, "out of range"),
        ({"weight": "75"}, "not a number"),
        ({"seen": "1999-12-31"}, "out of range"),
        ({"seen": "2020-02-30"}, "not a date YYYY-MM-DD"),
        ({"seen": "20200101"}, "not a date YYYY-MM-DD"),
        ({"seen": 18322}, "not a date YYYY-MM-DD"),
    ],
)
def test_what_is_no_record_is_told_where(
    shelf: Shelf, change: dict[str, Any], problem: str
) -> None:
    served = shelf.source.open().load()
    with pytest.raises(Refused) as refused:
        served.schema.read({"records": [shelf.records[0] | change]})
    (told,) = refused.value.problems
    assert (told["feature"], told["is"]) == (next(iter(change)), problem)
    assert "Rome" not in str(told)


def test_the_description_says_the_same(shelf: Shelf) -> None:
    served = shelf.source.open().load()
    described = document(served)["components"]["schemas"]["Request"]
    jsonschema.validate({"records": shelf.records}, described)
    for change in ({"city": "Rome"}, {"age": 111}, {"weight": "75"}, {"seen": 18322}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"records": [shelf.records[0] | change]}, described)


def test_what_is_not_known_is_refused_where_training_refused_it(shelf: Shelf) -> None:
    data = {**dict(shelf.found.config["data"]), "missing": "refuse"}
    inputs = prepared_inputs(
        replace(shelf.found, config={**dict(shelf.found.config), "data": data})
    )
    assert inputs is not None
    assert not any(it.feature.may_lack for it in inputs.inputs)
    with pytest.raises(Refused):
        inputs.schema_for((7,)).read({"records": [shelf.records[0] | {"weight": None}]})


def test_whoever_serves_may_say_otherwise(shelf: Shelf) -> None:
    labelled = replace(shelf.source, inputs=Inputs(labels=("no", "yes"))).open().load()
    assert labelled.labels == ("no", "yes")
    assert labelled.schema.names == NAMES
    seven = tuple(Input(name=f"f{n}", low=-1, high=1) for n in range(7))
    told = replace(shelf.source, inputs=Inputs(inputs=seven)).open().load()
    assert told.schema.names == tuple(f"f{n}" for n in range(7))


def test_a_model_of_each_clients_own_scale_needs_to_be_told(shelf: Shelf) -> None:
    data = {**dict(shelf.found.config["data"]), "prepare": {"scaling": "per_client"}}
    with pytest.raises(RegistryError, match="per_client"):
        prepared_inputs(replace(shelf.found, config={**dict(shelf.found.config), "data": data}))


def test_other_data_say_nothing(shelf: Shelf) -> None:
    assert prepared_inputs(replace(shelf.found, data_manifest=None)) is None
