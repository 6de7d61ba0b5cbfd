"""Mechanisms: what a client sends never exceeds the sensitivity, and what is released has its
noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from codex_ray.errors import ConfigError
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.privacy.quantisation import FixedPoint
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum

TREE = SeedTree(bytes(32))
VECTORS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30).map(
    lambda v: torch.tensor(v, dtype=torch.float32)
)


@given(VECTORS, st.integers(1, 5000))
def test_fixed_point_is_exact_to_half_a_step(vector, summands) -> None:
    grid = FixedPoint(1000.0, summands)
    back = grid.decode(grid.encode(vector))
    assert float((back - vector.double()).abs().max()) <= grid.step / 2 * (1 + 1e-9)


@given(st.integers(1, 4000), st.booleans())
def test_the_largest_sum_does_not_wrap(summands, negative) -> None:
    """At the bound it fits; with one summand more the sign would flip."""
    grid = FixedPoint(1.0, summands)
    extreme = torch.tensor([-1.0 if negative else 1.0])
    word = int(grid.encode(extreme).view(np.int32)[0])
    assert abs(word) * summands < 2**31
    total = np.array([(word * summands) % 2**32], dtype=np.uint32)
    assert float(grid.decode(total)[0]) == pytest.approx(summands * float(extreme), rel=1e-3)


@settings(max_examples=200)
@given(VECTORS, st.floats(0.01, 10), st.integers(1, 100_000))
def test_a_summands_norm_is_at_most_the_clip_norm(vector, clip_norm, summands) -> None:
    mechanism = CentralGaussian(clip_norm=clip_norm, noise_multiplier=1)
    grid = mechanism.grid(dimension=len(vector), summands=summands)
    sent = grid.decode(mechanism.encode(vector, grid))
    assert float(torch.linalg.vector_norm(sent)) <= clip_norm * (1 + 1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_update_that_is_no_number_becomes_zero(bad) -> None:
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1)
    grid = mechanism.grid(dimension=3, summands=10)
    assert not mechanism.encode(torch.tensor([0.1, bad, 0.2]), grid).any()


def test_short_updates_are_not_stretched() -> None:
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1)
    grid = mechanism.grid(dimension=2, summands=10)
    update = torch.tensor([0.3, -0.4])
    sent = grid.decode(mechanism.encode(update, grid))
    assert float((sent - update.double()).abs().max()) <= grid.step


def test_release_adds_the_noise_that_the_event_claims() -> None:
    mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=3.0)
    d, expected = 20_000, 8.0
    grid = mechanism.grid(dimension=d, summands=20)
    group = GroupSum((0, 1), np.zeros(d, dtype=np.uint32))
    released = mechanism.release(group, grid=grid, expected=expected, noise=TREE.stream("n"))
    scaled = (released * expected / (0.5 * 3.0)).numpy()
    assert stats.kstest(scaled, "norm").pvalue > 1e-3
    event = mechanism.event()
    assert event is not None and event.noise_multiplier == 3.0


def test_release_divides_by_the_public_cohort_and_not_by_the_survivors() -> None:
    mechanism = CentralGaussian(clip_norm=1.0, noise_multiplier=1e-9)
    grid = mechanism.grid(dimension=1, summands=10)
    one = mechanism.encode(torch.tensor([0.5]), grid)
    for members in ((0,), (0, 1, 2)):
        released = mechanism.release(
            GroupSum(members, one), grid=grid, expected=10.0, noise=TREE.stream("n")
        )
        assert float(released[0]) == pytest.approx(0.05, abs=1e-6)


def test_no_mechanism_is_the_mean_of_the_survivors_and_zero_for_none() -> None:
    mechanism = NoMechanism(bound=2.0)
    grid = mechanism.grid(dimension=1, summands=4)
    total = mechanism.encode(torch.tensor([1.0]), grid) + mechanism.encode(
        torch.tensor([0.5]), grid
    )
    mean = mechanism.release(GroupSum((3, 9), total), grid=grid, expected=4, noise=TREE.stream("n"))
    assert float(mean[0]) == pytest.approx(0.75, abs=1e-6)
    empty = GroupSum((), np.zeros(1, dtype=np.uint32))
    assert not mechanism.release(empty, grid=grid, expected=4, noise=TREE.stream("n")).any()
    assert mechanism.event() is None


def test_a_cohort_too_large_for_the_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="lower the rate"):
        CentralGaussian(clip_norm=1, noise_multiplier=1).grid(dimension=10**6, summands=10**6)
