"""Hospitals of the bundled breast-cancer records."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from codex_ray.data import breast_cancer
from codex_ray.data.breast_cancer import BreastCancer
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness

RANGES = {"mean radius": (5, 30), "mean texture": (5, 40), "mean area": (100, 2600)}


def opened(seed=0, **fields):
    return BreastCancer(ranges=RANGES, **fields).open(Randomness.of(seed).public)


@pytest.mark.parametrize("seed", range(5))
def test_every_record_has_one_holder(seed):
    data = opened(seed)
    assert data.population == 10
    holders = [data.client(client) for client in range(10)]
    assert all(20 <= len(records) <= 80 for records in holders)
    rows = np.concatenate([data.test().features, *(records.features for records in holders)])
    # Three decimals of three features tell all 569 patients apart.
    assert len(np.unique(rows, axis=0)) == len(rows) <= 569


def test_test_set_is_stratified_and_labels_mean_malignant():
    test = opened().test()
    assert len(test) == 120
    assert test.labels.sum() == 45  # 120 * 212 / 569 = 44.7
    radius = test.features[:, 0]
    assert radius[test.labels == 1].mean() > radius[test.labels == 0].mean() + 0.2


def test_same_seed_same_split_and_other_seed_other_split():
    first, again, other = opened(3), opened(3), opened(4)
    for client in range(10):
        assert np.array_equal(first.client(client).features, again.client(client).features)
    assert np.array_equal(first.test().features, again.test().features)
    assert not np.array_equal(first.test().features, other.test().features)


def test_label_skew_shows():
    def spread(skew):
        data = opened(label_skew=skew, clients=6)
        return np.std([data.client(client).labels.mean() for client in range(6)])

    assert spread(0.2) > 0.25 > 0.1 > spread(1000.0)


def test_too_many_hospitals_are_refused():
    with pytest.raises(DataError, match="30 clients with at least 20 records"):
        opened(clients=30)


def test_unknown_feature_and_bad_sizes_are_refused():
    public = Randomness.of(0).public
    with pytest.raises(ConfigError, match="did you mean 'mean radius'"):
        BreastCancer(ranges={"mean radios": (0, 1)}).open(public)
    with pytest.raises(ConfigError, match=r"data\.records: \[9, 3\]"):
        BreastCancer(ranges=RANGES, records=(9, 3))


def test_the_records_are_those_of_scikit_learns_own_loader() -> None:
    names, values, labels = breast_cancer._load()
    bundle = load_breast_cancer()
    assert names == [str(name) for name in bundle.feature_names]
    assert np.array_equal(values, bundle.data)
    assert np.array_equal(labels, 1 - bundle.target)
