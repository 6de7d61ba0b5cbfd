"""Real files of the folder CODEX_RAY_DATA, through the CSV source."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from codex_ray.data.tables import CsvFiles
from codex_ray.errors import DataError
from codex_ray.randomness import Randomness

pytestmark = pytest.mark.data

HEART = {
    0: [20, 80],
    1: [0, 1],
    2: [1, 4],
    3: [80, 200],
    4: [100, 600],
    5: [0, 1],
    6: [0, 2],
    7: [60, 220],
    8: [0, 1],
    9: [-3, 7],
}


@pytest.fixture(scope="module")
def folder() -> Path:
    """The folder of real data; without one these tests are deselected."""
    return Path(os.environ["CODEX_RAY_DATA"])


def heart(folder: Path, **fields) -> CsvFiles:
    settings = {
        "files": str(folder / "heart" / "processed.*.data"),
        "header": False,
        "label": 13,
        "ranges": HEART,
        "missing": "drop",
        "positive_above": 0,
        "test_fraction": 0.25,
    }
    return CsvFiles(**(settings | fields))


def test_heart_has_the_records_of_fed_heart_disease(folder):
    data = heart(
        folder,
        test_file=str(folder / "heart/processed.cleveland.data"),
        test_fraction=None,
        files=[
            str(folder / f"heart/processed.{name}.data")
            for name in ("hungarian", "switzerland", "va")
        ],
    ).open(Randomness.of(0).public)
    assert [len(data.client(client)) for client in range(3)] == [261, 46, 130]
    assert len(data.test()) == 303


def test_heart_can_be_learned(folder):
    data = heart(folder).open(Randomness.of(0).public)
    assert data.population == 4
    clients = [data.client(client) for client in range(4)]
    model = LogisticRegression().fit(
        np.concatenate([records.features for records in clients]),
        np.concatenate([records.labels for records in clients]),
    )
    assert model.score(data.test().features, data.test().labels) > 0.75


def test_heart_refuses_its_missing_values_by_place(folder):
    with pytest.raises(DataError, match=r"hungarian\.data line 3, column '4': .*'\?' is missing"):
        heart(folder, missing="refuse").open(Randomness.of(0).public)


def test_credit_default_is_read_packed(folder):
    banks = [
        folder / f"credit_default/default_credit_homo_{bank}.csv.gz"
        for bank in ("guest", "host_1", "host_2", "test")
    ]
    data = CsvFiles(
        files=[str(bank) for bank in banks[:3]],
        test_file=str(banks[3]),
        label="y",
        ranges={f"x{column}": (-3, 3) for column in range(23)},
    ).open(Randomness.of(0).public)
    assert [len(data.client(client)) for client in range(3)] == [8000, 8000, 8000]
    assert data.test().features.shape == (6000, 23)
    assert set(data.test().labels) == {0, 1}
