"""Planted duplicates and planted wrong labels are found, and clean records are left alone."""

import numpy as np
import pytest
from small import many, small_schema, write_csv

from codex_ray.preparation.column import Column
from codex_ray.preparation.duplicates import repeated, row_hashes
from codex_ray.preparation.label_noise import confident_classes, label_noise
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema


def test_planted_duplicates_are_counted_by_kind(tmp_path):
    lines = many(400)
    cells = [line.split(",") for line in lines[:60]]
    exact = [",".join(["Somebody Else", *row[1:]]) for row in cells[:25]]
    near = [",".join([*row[:3], f"{float(row[3]) + 0.3:.1f}", *row[4:]]) for row in cells[25:60]]
    file = write_csv(tmp_path / "a.csv", [*lines, *exact, *near])
    clean = write_csv(tmp_path / "b.csv", lines)
    schema = small_schema([str(file), str(clean)], columns={"note": {"role": "drop"}})
    made = prepare(Schema(**schema), tmp_path / "out")
    assert made.holdings[0].twice.exact == 25
    assert made.holdings[1].twice.exact == 0
    # Three tenths of a kilogram are a tenth of a step, so a grid parts few of them.
    assert made.holdings[0].twice.near - made.holdings[1].twice.near >= 33
    assert made.holdings[1].twice.near <= 4


def test_a_record_is_not_its_own_duplicate_and_three_alike_are_two_too_many():
    hashes = [np.array([5, 7, 5, 5, 9], np.uint64) for _ in range(3)]
    found = repeated(hashes)
    assert (found.exact, found.near) == (2, 0)


@pytest.mark.parametrize("pair", [(0.0099, 0.0101), (0.0149, 0.0151)])
def test_two_numbers_on_both_sides_of_one_grid_meet_on_the_other(pair):
    column = Column(type="number", role="feature", range=(0, 1))
    values = np.array([*pair, 0.5, 0.9])
    found = repeated(row_hashes({"x": (column, values)}, 4))
    assert (found.exact, found.near) == (0, 1)


def suspects(features, labels):
    best = confident_classes(features, labels)
    return (best >= 0) & (best != labels)


def _blobs(apart: float, records: int = 1200) -> tuple:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, records)
    centres = apart * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    features = (centres[labels] + rng.normal(0, 0.15, (records, 3))).astype(np.float32)
    return features, labels, rng


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_planted_wrong_labels_are_found(share):
    features, labels, rng = _blobs(apart=1.0)
    wrong = rng.random(len(labels)) < share
    noisy = np.where(wrong, (labels + rng.integers(1, 3, len(labels))) % 3, labels)
    found = suspects(features, noisy)
    assert (found & wrong).sum() / wrong.sum() > 0.8
    assert (found & wrong).sum() / found.sum() > 0.98
    assert label_noise(features, noisy).share == pytest.approx(share, abs=0.02)


def test_clean_labels_are_left_alone():
    features, labels, _ = _blobs(apart=1.0)
    assert label_noise(features, labels).share < 0.01


def test_a_wrong_label_is_judged_by_others_alone():
    """A record's own label has no voice: two lone strangers in the midst of the other class."""
    features = np.linspace(0, 1, 60, dtype=np.float32)[:, None]
    labels = np.zeros(60, np.int64)
    labels[[7, 41]] = 1
    assert np.flatnonzero(suspects(features, labels)).tolist() == [7, 41]


def test_too_few_records_or_one_class_say_nothing():
    features, labels, _ = _blobs(1.0, records=30)
    assert label_noise(features, labels) is None
    features, labels, _ = _blobs(1.0, records=100)
    assert label_noise(features, np.zeros_like(labels)) is None


def test_planted_wrong_labels_show_on_their_own_client(tmp_path):
    lines = []
    for person, line in enumerate(many(600)):
        cells = line.split(",")
        ill = person % 2
        lines.append(",".join([*cells[:3], str(60 + 60 * ill), str(ill), *cells[5:9], str(ill)]))
    flipped = [line[:-1] + str(1 - int(line[-1])) if i % 8 == 0 else line
               for i, line in enumerate(lines)]  # fmt: skip
    a, b = write_csv(tmp_path / "a.csv", lines), write_csv(tmp_path / "b.csv", flipped)
    made = prepare(Schema(**small_schema([str(a), str(b)])), tmp_path / "out")
    assert made.noise[0].share < 0.02
    assert made.noise[1].share == pytest.approx(1 / 8, abs=0.03)
