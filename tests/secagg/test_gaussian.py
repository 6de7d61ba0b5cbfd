"""The discrete Gaussian's table is exact to 2^-64, and what is drawn follows it."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from codex_ray.randomness import Stream
from codex_ray.secagg import gaussian
from codex_ray.secagg.gaussian import discrete_gaussian

WIDTHS = ["20.25", "40.5"]


def exp_of_minus_pi(times: Fraction) -> Fraction:
    """exp(-pi times) to 60 digits: Machin's pi and Taylor's series, in fractions."""

    def arctan_of_inverse(x: int) -> Fraction:
        return sum(
            (Fraction((-1) ** n, (2 * n + 1) * x ** (2 * n + 1)) for n in range(60)), Fraction(0)
        )

    pi = 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)
    exponent = Fraction(round(pi * times * 10**70), 10**70)
    term, total = Fraction(1), Fraction(1)
    for n in range(1, 400):
        term = Fraction(round(term * exponent / n * 10**90), 10**90)
        total += term
    return 1 / total


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_is_the_distribution_function_to_64_bits(width):
    drawn_from = discrete_gaussian(width)
    far = drawn_from.farthest
    weights = [exp_of_minus_pi(Fraction(k * k) / Fraction(width)) for k in range(far + 3)]
    total = weights[0] + 2 * sum(weights[1:])
    below = Fraction(0)
    for k, step in zip(range(-far, far), drawn_from._steps.tolist(), strict=True):
        below += weights[abs(k)] / total
        assert abs(min(below * 2**64, 2**64 - 1) - step) < 4, k
    assert weights[far + 1] / total < Fraction(1, 2**66)


@pytest.mark.parametrize("width", WIDTHS)
def test_draws_follow_the_table(width):
    drawn_from, count = discrete_gaussian(width), 400_000
    drawn = drawn_from.draw(count, Stream(b"k" * 32))
    steps = [0.0, *(drawn_from._steps / 2.0**64), 1.0]
    expected = np.diff(steps) * count
    seen = np.bincount(drawn + drawn_from.farthest, minlength=expected.size)
    common = expected > 20
    rest = [seen[~common].sum(), expected[~common].sum()]
    got = np.append(seen[common], rest[0])
    want = np.append(expected[common], rest[1])
    assert stats.chisquare(got, want).pvalue > 1e-4
    assert abs(drawn.var() / drawn_from.sigma**2 - 1) < 0.01


def test_sixteen_bits_decide_what_all_sixty_four_would():
    drawn_from = discrete_gaussian("40.5")
    guide = drawn_from._guide
    decided = np.flatnonzero(guide != gaussian._OPEN)
    rest = Stream(b"r" * 32).words(decided.size) >> np.uint64(16)
    full = decided.astype(np.uint64) << np.uint64(48) | rest
    np.testing.assert_array_equal(drawn_from._look_up(full), guide[decided])
    assert 0 < guide.size - decided.size <= 2 * drawn_from.farthest + 1


def test_undecided_words_read_forty_eight_bits_more(monkeypatch):
    drawn_from = gaussian.DiscreteGaussian(gaussian.Decimal("40.5"))
    monkeypatch.setitem(
        drawn_from.__dict__, "_guide", np.full(1 << 16, gaussian._OPEN, dtype=np.int32)
    )
    drawn = drawn_from.draw(200_000, Stream(b"u" * 32))
    assert abs(drawn.var() / drawn_from.sigma**2 - 1) < 0.02
    assert abs(drawn.mean()) < 0.03


def test_one_stream_gives_one_sequence_on_every_platform():
    drawn = discrete_gaussian("20.25").draw(100_000, Stream(b"g" * 32))
    digest = hashlib.sha256(drawn.astype("<i4").tobytes()).hexdigest()
    assert digest == "2cb46525c8eb74c430242d9857d7cee40a7e4772686a3c726f968124b3cddecb"
