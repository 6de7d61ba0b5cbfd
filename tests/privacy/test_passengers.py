"""Weights and metrics behind the update: exact over the largest cohort, in words that fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.errors import ConfigError
from codex_ray.privacy.passengers import Passenger, Passengers, Range
from codex_ray.types import reduce as reduce_words
from codex_ray.types import word_type


def added(words: list[np.ndarray], bits: int) -> np.ndarray:
    total = np.zeros(len(words[0]), dtype=word_type(bits))
    for one in words:
        np.add(total, one, out=total)
    return reduce_words(total, bits)


@given(st.integers(16, 32), st.integers(1, 5000), st.integers(1, 2**60), st.data())
def test_sums_are_exact_whatever_is_aboard(bits, summands, largest, data) -> None:
    riders = Passengers((Passenger("weight", largest), Passenger("flag", 1)), summands, bits)
    value = st.integers(0, largest)
    clients = data.draw(st.lists(value, min_size=1, max_size=min(6, summands)))
    total = added([riders.encode({"weight": it, "flag": it % 2}) for it in clients], bits)
    assert len(total) == riders.words
    assert riders.decode(total) == {"weight": sum(clients), "flag": sum(it % 2 for it in clients)}


@given(st.integers(16, 32), st.integers(1, 2**15), st.integers(1, 2**60))
def test_the_largest_cohort_of_the_largest_values_is_exact(bits, summands, largest) -> None:
    riders = Passengers((Passenger("weight", largest),), summands, bits)
    one = riders.encode({"weight": largest}).astype(np.uint64)
    total = (one * np.uint64(summands)) % np.uint64(2**bits)
    assert riders.decode(total.tolist()) == {"weight": summands * largest}


@pytest.mark.parametrize(("bits", "digit"), [(16, 6), (16, 1), (20, 8), (32, 12)])
def test_at_the_bound_a_digit_is_as_wide_as_can_be(bits, digit) -> None:
    """At the largest cohort for a width it is exact; with one client more that width would wrap."""
    most = (2**bits - 1) // (2**digit - 1)
    full = Passengers((Passenger("w", 2**digit - 1),), most, bits)
    assert full.digit_bits == digit and full.words == 1
    over = Passengers(full.aboard, most + 1, bits)
    assert (2**digit - 1) * (most + 1) >= 2**bits
    if digit > 1:
        assert over.digit_bits == digit - 1 and over.words == 2
    else:
        with pytest.raises(ConfigError, match="leave no digit in 16 bits: raise"):
            _ = over.words


def test_a_passenger_takes_the_words_that_its_range_needs_and_no_more() -> None:
    """A thousand clients leave 6 bits of 16, and 22 of 32."""
    for largest, narrow, wide in ((1, 1, 1), (63, 1, 1), (64, 2, 1), (2**22, 4, 2)):
        for bits, words in ((16, narrow), (32, wide)):
            assert Passengers((Passenger("w", largest),), 1000, bits).words == words
    assert Passengers((), 1000, 16).words == 0 and Passengers((), 1000, 16).decode([]) == {}


@pytest.mark.parametrize("values", [{}, {"w": -1}, {"w": 11}])
def test_a_value_that_is_missing_or_out_of_range_never_enters_a_sum(values) -> None:
    with pytest.raises(ValueError, match="w must be from 0 to 10"):
        Passengers((Passenger("w", 10),), 5, 16).encode(values)


LOSS = Range(low=-1, high=9, resolution=0.001)


@given(st.lists(st.floats(-1, 9), min_size=1, max_size=40))
def test_a_mean_is_right_to_half_the_resolution(values) -> None:
    total = sum(LOSS.step_of(value) for value in values)
    error = LOSS.mean(total, len(values)) - sum(values) / len(values)
    assert abs(error) <= LOSS.resolution / 2 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("value", "taken"), [(-5, -1), (100, 9), (math.inf, 9), (-math.inf, -1), (math.nan, 9)]
)
def test_a_value_outside_the_declared_range_is_taken_for_its_end(value, taken) -> None:
    assert LOSS.mean(LOSS.step_of(value), 1) == pytest.approx(taken)
    assert 0 <= LOSS.step_of(value) <= LOSS.steps


@pytest.mark.parametrize(
    "given", [{"low": 1, "high": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1e300}]
)
def test_a_range_that_holds_nothing_or_too_much_is_refused(given) -> None:
    with pytest.raises(ConfigError, match="give high > low"):
        Range(**given, resolution=1e-3)
