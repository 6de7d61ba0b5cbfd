"""`data.prepare`: what it refuses, and what becomes of numbers under it."""

import numpy as np
import pytest

from codex_ray.config import validated
from codex_ray.data.preparing import Prepare
from codex_ray.data.tables import CsvFiles
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness

PUBLIC = Randomness.of(0).public
RANGES = {"age": (0, 100), "dose": (0, 10)}
ROWS = {
    "a": [(10, 1, 0), (20, 9, 1), (30, None, 1), (250, 5, 0), (50, 4, 1)],
    "b": [(80, 2, 1), (90, None, 0), (85, 7, 0), (40, 8, 1)],
}
INSIDE = {"a": [10, 20, 30, 100, 50], "b": [80, 90, 85, 40]}
"""Their ages, cut to the range."""


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join(["age,dose,sick", *lines]))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.csv").write_text("age,dose,sick\n10,,0\n70,6,1\n")
    return tmp_path


def source(folder, prepare=None, **fields):
    settings = {
        "files": str(folder / "*.csv"),
        "label": "sick",
        "ranges": RANGES,
        "test_file": str(folder / "test" / "t.csv"),
    }
    return CsvFiles(**(settings | {"prepare": prepare} | fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"imputation": "mean"}, "imputation is mean, and with scaling: fixed nothing is computed"),
        ({"noise_multiplier": 1.0}, "noise_multiplier: with scaling: fixed nothing is released"),
        ({"scaling": "pooled", "bins": 3}, "bins: 3 cannot be used"),
        ({"scaling": "pooled", "cut": 0}, "cut: 0 cannot be used"),
        ({"scaling": "pool"}, "scaling: 'pool' cannot be used: it must be 'fixed', 'pooled' or"),
        ({"scalling": "pooled"}, "scalling: unknown key: did you mean 'scaling'"),
        ({"scaling": "pooled", "noise_multiplier": -1}, "noise_multiplier: -1 cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(fields, said):
    with pytest.raises(ConfigError) as refused:
        validated(Prepare, fields)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_number_has_one_answer(folder):
    with pytest.raises(ConfigError, match=r"data\.missing is drop, and data\.prepare\.imputation"):
        source(folder, {"imputation": "middle"}, missing="drop")
    with pytest.raises(DataError, match=r"a\.csv line 4, column 'dose': the value '' is missing"):
        source(folder).open(PUBLIC)


def test_a_missing_label_is_not_filled(folder):
    (folder / "c.csv").write_text("age,dose,sick\n1,1,\n")
    with pytest.raises(DataError, match=r"c\.csv line 2, column 'sick'"):
        source(folder, {"imputation": "middle"}).open(PUBLIC)


def test_fixed_is_what_was_before_with_gaps_in_the_middle(folder):
    filled = source(folder, {"imputation": "middle"}).open(PUBLIC)
    dropped = source(folder, missing="drop").open(PUBLIC)
    for client, gap in ((0, 2), (1, 1)):
        features = filled.client(client).features
        assert features[gap, 1] == 0.0
        rest = np.delete(features, gap, axis=0)
        assert np.array_equal(rest, dropped.client(client).features)
    assert filled.test().features[0].tolist() == [np.float32(-0.8), 0.0]


def test_each_client_is_scaled_by_its_own_figures(folder):
    data = source(folder, {"scaling": "per_client", "imputation": "median"}).open(PUBLIC)
    for client, name in enumerate(INSIDE):
        ages = np.array(INSIDE[name], dtype=float)
        scaled = (ages - ages.mean()) / ages.std()
        np.testing.assert_allclose(data.client(client).features[:, 0], scaled, rtol=1e-6)
    doses = np.array([1, 9, 4, 5, 4.0])  # of 1 9 5 4 the second is the median by inverted_cdf
    there = np.array([1, 9, 5, 4.0])
    expected = (doses - there.mean()) / there.std()
    np.testing.assert_allclose(data.client(0).features[[0, 1, 2, 3, 4], 1], expected, rtol=1e-6)


def test_held_out_records_take_the_figures_of_their_clients_training_records(folder):
    whole = source(folder, {"scaling": "per_client", "imputation": "mean"}, test_file=None,
                   test_fraction=0.4)  # fmt: skip
    tables, data = whole.tables(PUBLIC), whole.open(PUBLIC)
    first = 0
    for client, part in enumerate(tables.held_out):
        ages = np.clip(tables.clients[client].values[:, 0], 0, 100)
        scaled = (np.clip(part.values[:, 0], 0, 100) - ages.mean()) / ages.std()
        rows = slice(first, first + len(scaled))
        np.testing.assert_allclose(data.test().features[rows, 0], scaled, rtol=1e-6)
        first += len(scaled)
    assert first == len(data.test()) > 2


def test_scaled_values_are_cut(folder):
    data = source(folder, {"scaling": "per_client", "imputation": "mean", "cut": 0.5}).open(PUBLIC)
    assert np.abs(data.client(0).features).max() == 0.5


def test_a_column_without_spread_becomes_zeros(folder):
    (folder / "a.csv").write_text("age,dose,sick\n50,1,0\n50,3,1\n")
    data = source(folder, {"scaling": "per_client", "imputation": "mean"}).open(PUBLIC)
    assert data.client(0).features[:, 0].tolist() == [0, 0]


def test_figures_from_the_configuration_are_taken_as_they_stand(folder):
    statistics = {
        "columns": ["age", "dose"],
        "centre": [[50, 5]],
        "spread": [[25, 2]],
        "fill": [[0, 7]],
    }
    prepare = {"scaling": "pooled", "imputation": "mean", "statistics": statistics}
    data = source(folder, prepare).open(PUBLIC)
    assert data.client(0).features[2].tolist() == [np.float32(-0.8), 1.0]
    assert data.test().features.tolist() == [[np.float32(-1.6), 1.0], [np.float32(0.8), 0.5]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": ["age", "height"]}, "are of age, height, but the columns are age, dose"),
        ({"centre": [[1, 1]] * 3, "spread": [[1, 1]] * 3, "fill": [[1, 1]] * 3}, "3 clients"),
        ({"spread": [[1, 0]]}, "every spread must be above 0"),
        ({"fill": [[1]]}, "each row needs 2 figures"),
        ({"fill": []}, "as many rows"),
    ],
)
def test_figures_of_something_else_are_refused(folder, change, said):
    statistics = {"columns": ["age", "dose"], "centre": [[1, 1]], "spread": [[1, 1]],
                  "fill": [[1, 1]]}  # fmt: skip
    prepare = {"scaling": "pooled", "imputation": "mean", "statistics": statistics | change}
    with pytest.raises((ConfigError, DataError), match=said):
        source(folder, prepare).open(PUBLIC)
