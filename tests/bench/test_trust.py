"""The comparison of whom to trust: the experiments that ship, at equal epsilon and records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codex_ray.accounting import costs
from codex_ray.bench.trust import (
    ARMS,
    BAR,
    QUICKSTART,
    _pooled,
    compare_trust,
    experiment_of,
    picture_of,
)
from codex_ray.config import load_yaml
from codex_ray.data.dataset import FederatedDataset
from codex_ray.randomness import Randomness
from codex_ray.records.arms import draw_arms

EXPERIMENTS = Path(__file__).resolve().parent.parent.parent / "experiments"


@pytest.mark.parametrize(
    ("arm", "name"), [("hospital", "quickstart.yaml"), ("shared", "shared_noise.yaml")]
)
def test_the_arms_train_as_the_experiments_that_ship(arm, name) -> None:
    shipped = load_yaml(EXPERIMENTS / name)
    assert {key: shipped[key] for key in ("data", "model")} == {
        key: QUICKSTART[key] for key in ("data", "model")
    }
    found = experiment_of(arm, 1.0)
    trainer = found.trainer.model_dump(exclude={"noise_multiplier"})
    for key, value in shipped["trainer"].items():
        assert key == "noise_multiplier" or trainer[key] == value, key
    assert found.rounds == shipped["rounds"]


@pytest.mark.parametrize("arm", ["records", "hospital", "shared"])
def test_every_arm_spends_all_of_epsilon_and_no_more(arm) -> None:
    """Central is accounted like the hospital's own, at one hospital."""
    assert 0.998 <= list(costs(experiment_of(arm, 1.0)))[-1].epsilon <= 1.0


def test_central_training_has_the_same_records_and_test_set() -> None:
    experiment = experiment_of("central", 1.0)
    pooled = _pooled(experiment)
    split: FederatedDataset = experiment.data.open(Randomness.of(0).public)
    assert pooled.population == 1
    assert np.array_equal(pooled.test().features, split.test().features)
    several = [split.client(one) for one in range(split.population)]
    assert len(pooled.client(0)) == sum(map(len, several))
    assert np.array_equal(pooled.client(0).labels, np.concatenate([r.labels for r in several]))


def test_the_comparison_in_small() -> None:
    found = compare_trust(2, epsilons=(1.0,), arms=("hospital", "central"))
    hospital, central = found["arms"]
    assert hospital["trust"] == "hospital" and central["trust"] == "central"
    for arm in (hospital, central):
        assert len(arm["accuracies"]) == 2 and 0.85 < arm["accuracy"] < 1
        assert 0.9 < arm["spent"] <= 1.0
        assert arm["standard_error"] == pytest.approx(
            abs(arm["accuracies"][0] - arm["accuracies"][1]) / 2
        )
    assert found["holds"] is None and found["gain"] == {"1": None}
    assert picture_of(found).startswith(b"\x89PNG")


def test_an_arm_without_a_point_for_each_group_is_no_picture() -> None:
    with pytest.raises(ValueError, match="arm one has 1 points for 2 groups"):
        draw_arms(["a", "b"], {"one": [(0.5, 0.1)]}, title="t", metric="m")


@pytest.mark.slow
def test_sharing_the_noise_reaches_the_bar_over_ten_seeds() -> None:
    found = compare_trust(10, epsilons=(1.0,))
    mean = {arm["trust"]: arm["accuracy"] for arm in found["arms"]}
    assert tuple(mean) == ARMS
    assert found["holds"] and mean["shared"] >= BAR
    assert mean["records"] < mean["hospital"] < mean["central"]
