"""Noised records keep the promise of their event, and are noised once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant

from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory
from codex_ray.errors import DataError
from codex_ray.learning.local_noise import (
    LocalGaussianRecords,
    NoisedDataset,
    RandomisedResponse,
    gaussian_delta,
    gaussian_noise_for,
)
from codex_ray.randomness import SeedTree

TREE = SeedTree(bytes(32))


def held(n: int, features: int = 3, *, classes: int = 2) -> Records:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, features)).astype(np.float32)
    return Records(values, rng.integers(0, classes, n).astype(np.int64))


def epsilon_of(event, delta: float) -> float:
    accountant = PLDAccountant(NeighboringRelation.REPLACE_ONE, 1e-4)
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_answers_have_the_probabilities_that_epsilon_allows(epsilon, classes) -> None:
    """The counts of 2e5 answers of each label, within five standard deviations."""
    rule, n = RandomisedResponse(epsilon=epsilon, classes=classes), 200_000
    found = np.empty((classes, classes))
    for label in range(classes):
        asked = Records(np.zeros((n, 1), np.float32), np.full(n, label))
        answers = rule.noised(asked, TREE.stream("answers", label)).labels
        found[label] = np.bincount(answers, minlength=classes) / n
    other = (1 - rule.kept) / (classes - 1)
    expected = np.where(np.eye(classes) == 1, rule.kept, other)
    assert np.abs(found - expected).max() < 5 * math.sqrt(0.25 / n)
    assert rule.kept / other == pytest.approx(math.exp(epsilon))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_the_event_of_randomised_response_is_pure(epsilon, classes) -> None:
    event = RandomisedResponse(epsilon=epsilon, classes=classes).event()
    assert epsilon_of(event, 1e-12) == pytest.approx(epsilon, abs=2e-4)


def test_shares_of_labels_are_estimated_without_bias() -> None:
    rule = RandomisedResponse(epsilon=1.0, classes=3)
    asked = Records(np.zeros((90_000, 1), np.float32), np.arange(90_000) % 9 // 4)
    answers = rule.noised(asked, TREE.stream("shares")).labels
    assert rule.frequencies(answers) == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=0.012)


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"local_noise\.classes is 2.*label 2"):
        RandomisedResponse(epsilon=1.0).noised(held(50, classes=3), TREE.stream("x"))


def test_features_are_clipped_and_noised_as_the_event_says() -> None:
    rule = LocalGaussianRecords(clip_norm=0.5, noise_multiplier=2.0)
    given = Records(np.full((20_000, 4), 9.0, np.float32), np.zeros(20_000, np.int64))
    shown = rule.noised(given, TREE.stream("features")).features
    # 9 at each of four coordinates is cut to a norm of 0.5: to 0.25 each.
    assert shown.mean(0) == pytest.approx([0.25] * 4, abs=5 / math.sqrt(20_000))
    assert shown.std(0) == pytest.approx([1.0] * 4, rel=5 / math.sqrt(40_000))
    assert np.abs(np.corrcoef(shown.T) - np.eye(4)).max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_is_no_number_counts_as_zero(bad) -> None:
    rule, given = LocalGaussianRecords(clip_norm=0.5, noise_multiplier=2.0), held(5)
    zero = Records(given.features.copy(), given.labels)
    given.features[2, 1], zero.features[2] = bad, 0.0
    one, other = (rule.noised(r, TREE.stream("bad")).features for r in (given, zero))
    assert np.isfinite(one).all() and np.array_equal(one, other)


@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
def test_the_event_of_gaussian_records_has_the_closed_form(noise) -> None:
    """Analytic Gaussian (Balle & Wang 2018) against the loss distribution of the accountant."""
    rule = LocalGaussianRecords(clip_norm=3.0, noise_multiplier=noise)
    epsilon = epsilon_of(rule.event(), 1e-5)
    assert gaussian_delta(epsilon, noise) == pytest.approx(1e-5, rel=0.01)
    assert gaussian_noise_for(epsilon, 1e-5) == pytest.approx(noise, rel=1e-3)
    assert gaussian_noise_for(epsilon, 1e-5) <= noise * (1 + 1e-4)


def test_the_noise_that_is_found_is_least() -> None:
    noise = gaussian_noise_for(1.0, 1e-5)
    assert gaussian_delta(1.0, noise) <= 1e-5 < gaussian_delta(1.0, noise * 0.999)
    assert noise == pytest.approx(2 * 3.7304, rel=1e-3)  # sigma = 3.730 at sensitivity 1


def test_a_whole_record_costs_its_features_and_its_label() -> None:
    features = LocalGaussianRecords(clip_norm=1.0, noise_multiplier=8.0)
    whole = features.model_copy(update={"labels": RandomisedResponse(epsilon=0.5)})
    assert "not covered" in features.covers and whole.covers == "a whole record"
    alone, together = (epsilon_of(rule.event(), 1e-5) for rule in (features, whole))
    assert alone + 0.3 < together <= alone + 0.5 + 1e-3
    shown = whole.noised(held(500), TREE.stream("whole"))
    assert 0 < (shown.labels != held(500).labels).mean() < 0.5


@pytest.mark.parametrize(
    "rule",
    [RandomisedResponse(epsilon=1.0), LocalGaussianRecords(clip_norm=1.0, noise_multiplier=2.0)],
    ids=lambda rule: rule.kind,
)
def test_records_are_noised_once_by_client(rule) -> None:
    """Averaging two draws would take noise away again."""
    plain = InMemory([held(40), held(40), held(0)], held(7))
    data = NoisedDataset(plain, rule, TREE)
    first, again = data.client(0), data.client(0)
    assert first is again
    other_process = NoisedDataset(plain, rule, TREE).client(0)
    assert np.array_equal(first.features, other_process.features)
    assert np.array_equal(first.labels, other_process.labels)
    beside = data.client(1)
    assert not (
        np.array_equal(first.features, beside.features)
        and np.array_equal(first.labels, beside.labels)
    )
    assert len(data.client(2)) == 0 and data.population == 3
    assert np.array_equal(data.test().features, plain.test().features)
    assert "root" not in repr(data) and str(TREE.root) not in repr(data)
