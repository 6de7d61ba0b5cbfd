"""Stochastic rounding: no bias, and never a norm above the bound that the sensitivity rests on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.privacy.rounding import (
    BETA,
    norm_after,
    norm_before,
    round_stochastically,
    round_within,
)
from codex_ray.randomness import SeedTree, Stream

TREE = SeedTree(b"rounding".ljust(32, b"\0"))
REPETITIONS = 10_000


class AllUp(Stream):
    """The worst luck: every coordinate that can goes up."""

    def __init__(self) -> None:
        super().__init__(bytes(32))
        self.asked = 0

    def uniform(self, count: int) -> np.ndarray:
        self.asked += 1
        return np.full(count, 2.0**-53)


def once(vector: torch.Tensor, stream: Stream) -> torch.Tensor:
    return round_stochastically(vector[None], [stream])[0]


def within(vector: torch.Tensor, stream: Stream, *, limit: float) -> torch.Tensor:
    return round_within(vector[None], [stream], limit=limit)[0]


def halves(dimension: int, norm: float) -> torch.Tensor:
    """A vector of about that norm, and not above, whose fractions are all one half."""
    each = norm / math.sqrt(dimension)
    assert each > 0.5
    vector = torch.full((dimension,), math.floor(each - 0.5) + 0.5, dtype=torch.float64)
    vector[: dimension // 2] *= -1
    return vector


def test_each_coordinate_is_right_on_average() -> None:
    """The mean error over 10^4 repetitions is within four standard errors of zero."""
    vector = torch.tensor([0.5, -0.5, 0.001, 0.999, -7.25, 3.0, 1e4 + 0.3, -0.75, 0.0, 2**30 + 0.5])
    vector = vector.double()
    stream = TREE.stream("mean")
    drawn = torch.stack([once(vector, stream) for _ in range(REPETITIONS)])
    fraction = vector - vector.floor()
    error = drawn.mean(dim=0) - vector
    allowed = 4 * (fraction * (1 - fraction) / REPETITIONS).sqrt()
    assert bool((error.abs() <= allowed + 1e-9 * vector.abs()).all())
    assert bool(((drawn - vector).abs() < 1).all()) and torch.equal(drawn, drawn.round())


def test_rounding_to_the_nearest_has_the_bias_that_this_test_would_see() -> None:
    vector = torch.tensor([0.3], dtype=torch.float64)
    error = float((vector.round() - vector).abs())
    assert error > 4 * math.sqrt(0.3 * 0.7 / REPETITIONS)


def test_integers_stay_what_they_are() -> None:
    vector = torch.tensor([-32.0, 0.0, 32.0, 2.0**30], dtype=torch.float64)
    assert torch.equal(once(vector, AllUp()), vector)


@settings(max_examples=200)
@given(
    st.lists(st.floats(-300, 300), min_size=1, max_size=60),
    st.floats(1, 3000),
    st.integers(0, 2**32),
)
def test_no_rounded_norm_exceeds_the_bound(values, limit, number) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    norm, allowed = float(vector.norm()), norm_before(limit, len(vector))
    if norm > allowed:
        vector = vector * (allowed / norm)
    rounded = within(vector, TREE.stream("bound", number), limit=limit)
    assert sum(int(x) ** 2 for x in rounded) <= limit**2
    assert bool(((rounded - vector).abs() < 1).all())


@pytest.mark.parametrize("dimension", [4, 64, 1000, 10_000])
def test_the_adversary_who_sends_halves_only_does_not_exceed_it_either(dimension) -> None:
    limit = 4 * math.sqrt(dimension)
    vector = halves(dimension, norm_before(limit, dimension))
    stream = TREE.stream("halves", dimension)
    for _ in range(200):
        assert float(within(vector, stream, limit=limit).norm()) <= limit


def test_with_all_the_bad_luck_there_is_it_rounds_towards_zero() -> None:
    limit = 38.0
    vector = halves(100, norm_before(limit, 100)).abs()
    stream = AllUp()
    assert float(once(vector, stream).norm()) > limit
    stream.asked = 0
    rounded = within(vector, stream, limit=limit)
    assert torch.equal(rounded, vector.trunc()) and float(rounded.norm()) <= limit
    assert stream.asked == 64, "the number of tries is bounded"


@pytest.mark.parametrize("dimension", [1, 2, 9, 100, 2500])
@pytest.mark.parametrize("factor", [2.0, 4.0, 40.0])
def test_a_try_succeeds_as_often_as_the_bound_promises(dimension, factor) -> None:
    """Theorem 1 of Kairouz, Liu & Steinke: with probability 1 - beta at least, whatever is sent."""
    limit = factor * math.sqrt(dimension)
    allowed = norm_before(limit, dimension)
    vector = halves(dimension, allowed)
    vector[0] = math.sqrt(max(0.25, allowed**2 - float(vector[1:].square().sum())))
    stream = TREE.stream("accepted", dimension, int(factor))
    tries = 400
    good = sum(float(once(vector, stream).norm()) <= limit for _ in range(tries))
    assert good / tries >= 1 - BETA - 4 * math.sqrt(BETA * (1 - BETA) / tries)


def test_vectors_that_are_rounded_together_do_not_see_each_other() -> None:
    """Some fit at once, some are tried again and again, and one never fits."""
    limit = 38.0
    most = halves(100, norm_before(limit, 100)).abs()
    vectors = torch.stack([most, 0.1 * most, -most, most, 0.99 * most] * 6)
    streams = [TREE.stream("together", row) for row in range(len(vectors))]
    streams[3] = AllUp()
    found = round_within(vectors, streams, limit=limit)
    again = [AllUp() if row == 3 else TREE.stream("together", row) for row in range(len(vectors))]
    for row, (vector, stream) in enumerate(zip(vectors, again, strict=True)):
        assert torch.equal(found[row], within(vector, stream, limit=limit))
    assert torch.equal(found[3], most.trunc()) and float(found.norm(dim=1).max()) <= limit


def test_the_condition_moves_the_mean_by_less_than_a_step() -> None:
    """Along the vector itself, where rejection pulls, on the vector that is rejected most."""
    dimension, limit = 100, 40.0
    vector = halves(dimension, norm_before(limit, dimension)).abs()
    vector *= norm_before(limit, dimension) / float(vector.norm())
    stream = TREE.stream("condition")
    along = vector / vector.norm()
    errors = torch.stack(
        [(within(vector, stream, limit=limit) - vector) @ along for _ in range(REPETITIONS)]
    )
    spread = float(errors.std()) / math.sqrt(REPETITIONS)
    bound = math.sqrt(BETA / (1 - BETA)) / 2
    assert abs(float(errors.mean())) <= bound + 4 * spread and bound < 0.63


@given(st.floats(0.1, 1e9), st.integers(1, 2**24))
def test_what_may_come_in_is_what_comes_out_within_the_limit(limit, dimension) -> None:
    allowed = norm_before(limit, dimension)
    assert 0 <= allowed < limit
    if allowed > 0:
        assert norm_after(allowed, dimension) == pytest.approx(limit, rel=1e-9)
