"""Fixed point: exact on the grid, and no sum of the largest cohort wraps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.privacy.quantisation import FixedPoint, largest_level, no_words
from codex_ray.types import reduce as reduce_words
from codex_ray.types import word_type

BITS = st.integers(16, 32)
VECTORS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30).map(
    lambda v: torch.tensor(v, dtype=torch.float32)
)


def summed(words: np.ndarray, times: int, bits: int) -> np.ndarray:
    """`times` copies of the words, added modulo 2^bits."""
    total = (words.astype(np.uint64) * np.uint64(times)) % np.uint64(2**bits)
    return total.astype(word_type(bits))


@given(VECTORS, st.integers(1, 600), BITS)
def test_it_is_exact_to_half_a_step(vector, summands, bits) -> None:
    grid = FixedPoint.without_wrap(1000.0, summands=summands, bits=bits)
    words = grid.residues(grid.scaled(vector).round())
    assert words.dtype == word_type(bits) and int(words.max()) < 2**bits
    error = (grid.decode(words) - vector.double()).abs().max()
    assert float(error) <= grid.step / 2 * (1 + 1e-9)


@given(st.integers(-(2**31) + 1, 2**31 - 1), BITS)
def test_residues_are_integers_modulo_two_to_the_bits(number, bits) -> None:
    grid = FixedPoint(1.0, 2**31 - 1, bits)
    words = grid.residues(torch.tensor([float(number)], dtype=torch.float64))
    assert int(words[0]) == number % 2**bits
    back = int(grid.integers(words)[0])
    assert -(2 ** (bits - 1)) <= back < 2 ** (bits - 1) and (back - number) % 2**bits == 0


@given(BITS, st.integers(1, 4000), st.booleans())
def test_the_largest_sum_is_exact(bits, summands, negative) -> None:
    grid = FixedPoint.without_wrap(1.0, summands=summands, bits=bits)
    extreme = torch.tensor([-9.0 if negative else 9.0])
    words = grid.residues(grid.scaled(extreme))
    total = int(grid.integers(summed(words, summands, bits))[0])
    assert total == summands * grid.levels * (-1 if negative else 1)
    assert abs(total) < 2 ** (bits - 1)


@pytest.mark.parametrize(("bits", "summands"), [(16, 151), (20, 241), (24, 47), (32, 1)])
def test_at_the_bound_it_is_exact_and_one_summand_more_would_flip_the_sign(bits, summands) -> None:
    """The cohorts divide 2^(bits-1) - 1 without rest, or all but: no room is left."""
    grid = FixedPoint.without_wrap(1.0, summands=summands, bits=bits)
    words = grid.residues(grid.scaled(torch.tensor([1.0])))
    assert float(grid.decode(summed(words, summands, bits))[0]) == pytest.approx(summands)
    assert float(grid.decode(summed(words, summands + 1, bits))[0]) < 0


@pytest.mark.parametrize("bits", [16, 20, 31])
def test_one_summand_more_than_there_are_levels_is_refused(bits) -> None:
    most = 2 ** (bits - 1) - 1
    grid = FixedPoint.without_wrap(1.0, summands=most, bits=bits)
    words = grid.residues(grid.scaled(torch.tensor([-1.0, 1.0])))
    assert grid.integers(summed(words, most, bits)).tolist() == [-most, most]
    with pytest.raises(ValueError, match="leave no level"):
        FixedPoint.without_wrap(1.0, summands=most + 1, bits=bits)
    assert largest_level(summands=most + 1, bits=bits) == 0


@pytest.mark.parametrize(("value", "level"), [(float("nan"), 0), (float("inf"), 7), (-1e9, -7)])
def test_what_is_no_number_becomes_zero_and_an_outlier_the_outermost_level(value, level) -> None:
    assert FixedPoint(0.5, 7).scaled(torch.tensor([value])).tolist() == [level]


def test_nobodys_sum_has_the_words_of_everybodys() -> None:
    assert no_words(3, bits=16).dtype == np.uint16 and no_words(3, bits=17).dtype == np.uint32
    assert reduce_words(no_words(3, bits=20), 20).tolist() == [0, 0, 0]
