"""From bits to whole numbers: each word gives the value whose steps it reaches, to the last bit."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import PrivacyError
from codex_ray.privacy import discrete_gaussian, skellam
from codex_ray.privacy.inverse_cdf import BITS, WIDEST, InverseCdf, check_width
from codex_ray.randomness import SeedTree, Stream

TREE = SeedTree(b"whole numbers from uniform bits!")
TOP = (1 << BITS) - 1
SMALL = InverseCdf([5, 3, 1])


class Planted(Stream):
    """A stream whose words are chosen: first bits of all, 64 bits of all, then the rest of each.

    It serves words that neither the first bits nor 64 decide, or one word alone.
    """

    def __init__(self, words: list[int], *, first: int = 2) -> None:
        bits = 8 * first
        self.parts = [
            b"".join((word >> BITS - bits).to_bytes(first, "little") for word in words),
            # Of the next 8 bytes, a little-endian number, the upper bits come after the first.
            b"".join(((word >> 128 << bits) % 2**64).to_bytes(8, "little") for word in words),
            *((word % 2**128).to_bytes(16, "big") for word in words),
        ]

    def bytes(self, count: int) -> bytes:
        """The next part, which has to be asked for as a whole."""
        part = self.parts.pop(0)
        assert count == len(part)
        return part


class Counting(Stream):
    """A stream that knows how many bytes were read."""

    read = 0

    def bytes(self, count: int) -> bytes:
        """The next bytes, counted."""
        self.read += count
        return super().bytes(count)


def all_steps(table: InverseCdf) -> list[int]:
    return [table.step(k) for k in range(-table.farthest, table.farthest)]


def value_of(word: int, steps: list[int]) -> int:
    """By the definition: how many steps are at most the word, less those below zero."""
    return bisect_right(steps, word) - len(steps) // 2


def around(step: int) -> list[int]:
    """Words about a step: beside it, and all that share its first 64 bits at either end."""
    near = [step - 1, step, step + 1, step >> 128 << 128, step >> 128 << 128 | 2**128 - 1]
    return [word for word in near if 0 <= word <= TOP]


@pytest.mark.parametrize("weights", [[1, 1], [5, 3, 1], [7, 0, 2], [10**60, 1], [3, 2, 2, 1, 0]])
def test_the_steps_are_the_distribution_function(weights) -> None:
    table = InverseCdf(weights)
    total = 2 * sum(weights) - weights[0]
    masses = [*weights[:0:-1], *weights]
    for step, below in zip(all_steps(table), accumulate(masses), strict=False):
        assert abs(step - Fraction(below << BITS, total)) <= 2


@pytest.mark.parametrize("table", [SMALL, discrete_gaussian.table(3.0), skellam.table(0.09)])
def test_beside_every_step_the_value_is_the_one_that_the_word_reaches(table) -> None:
    steps = all_steps(table)
    for word in [0, TOP, *(word for step in steps for word in around(step))]:
        assert table.draw(1, Planted([word])).tolist() == [value_of(word, steps)], hex(word)


@pytest.mark.parametrize("table", [discrete_gaussian.table(1000.0), skellam.table(2e7)])
def test_beside_steps_of_a_wide_table_too(table) -> None:
    steps = all_steps(table)
    some = [*steps[:20], *steps[20:-20:211], *steps[-20:]]
    for word in [0, TOP, *(word for step in some for word in around(step))]:
        assert table.draw(1, Planted([word], first=4)).tolist() == [value_of(word, steps)]


def test_words_that_64_bits_leave_open_are_decided_either_way_and_in_order() -> None:
    """The path that no test of random draws takes: about one draw in 10^16 does."""
    table = discrete_gaussian.table(30.0)
    steps = all_steps(table)
    # Well inside the distribution, where two steps differ in their first 64 bits.
    planted = [
        (k, step >> 128 << 128 | rest)
        for k in range(-60, 60, 7)
        for step in [table.step(k)]
        for rest in (0, step % 2**128 - 1, step % 2**128, 2**128 - 1)
    ]
    drawn = table.draw(len(planted), Planted([word for _, word in planted]))
    assert drawn.tolist() == [k + side for k in range(-60, 60, 7) for side in (0, 0, 1, 1)]
    assert drawn.tolist() == [value_of(word, steps) for _, word in planted]


def test_words_that_all_64_bits_of_many_steps_equal_are_told_apart() -> None:
    """Out in the tails hundreds of steps begin with the same 64 bits."""
    table = discrete_gaussian.table(300.0)
    steps = all_steps(table)
    for bits in (0, 2**64 - 1):
        alike = [step for step in steps if step >> 128 == bits]
        assert len(alike) > 300
        for word in [word for step in alike[::29] for word in (step - 1, step)]:
            assert table.draw(1, Planted([word])).tolist() == [value_of(word, steps)]


@given(st.lists(st.integers(0, TOP), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_word_gives_the_value_that_it_reaches(words) -> None:
    steps = all_steps(SMALL)
    drawn = [int(SMALL.draw(1, Planted([word]))[0]) for word in words]
    assert drawn == [value_of(word, steps) for word in words]


@pytest.mark.parametrize(
    "table",
    [discrete_gaussian.table(3.0), discrete_gaussian.table(300.0), discrete_gaussian.table(1e3)],
)
def test_a_vector_reads_first_bits_of_all_then_those_of_the_open_ones(table) -> None:
    """What a vector is, worked out with whole numbers from the keystream alone."""
    count, first = 20_000, 2 if table.farthest < 6000 else 4
    bits = min(8 * first, table._guide_bits)
    steps, stream = all_steps(table), TREE.stream("vector")
    heads = [int(x) for x in np.frombuffer(stream.bytes(first * count), f"<u{first}")]
    starts = [head >> 8 * first - bits << BITS - bits for head in heads]
    # Open: some step lies among the words that begin with these bits.
    is_open = [
        steps[-1] >= start and bisect_right(steps, start - 1) < bisect_right(steps, end)
        for start in starts
        for end in [start + (1 << BITS - bits) - 1]
    ]
    more = iter(stream.words(sum(is_open)).tolist())
    words = [
        (head << 64 - 8 * first | next(more) >> 8 * first) << 128 if open_ else start
        for head, start, open_ in zip(heads, starts, is_open, strict=True)
    ]
    counting = Counting(TREE.key("vector"))
    drawn = table.draw(count, counting)
    assert drawn.tolist() == [value_of(word, steps) for word in words]
    assert counting.read == first * count + 8 * sum(is_open)
    assert 0 < sum(is_open) < 0.1 * count


def test_the_same_stream_gives_the_same_draws_and_another_others() -> None:
    for table in (SMALL, discrete_gaussian.table(300.0), skellam.table(1e6)):
        one, again, other = (table.draw(1000, TREE.stream(name)) for name in ("a", "a", "b"))
        assert (one == again).all() and (one != other).any()
        assert one.dtype == np.int32


def test_one_value_alone_and_none_at_all() -> None:
    assert InverseCdf([7]).draw(5, TREE.stream("one")).tolist() == [0] * 5
    assert SMALL.draw(0, TREE.stream("none")).tolist() == []


@pytest.mark.parametrize("deviation", [0.0, -1.0, 1.0001 * WIDEST, float("inf"), float("nan")])
def test_widths_that_nobody_can_draw_are_refused(deviation) -> None:
    with pytest.raises(PrivacyError, match=r"above 0 and at most 100000.*coarser grid"):
        check_width(deviation)
    with pytest.raises(PrivacyError, match="at most 100000"):
        discrete_gaussian.discrete_gaussian(TREE.stream("x"), 1, sigma=deviation)
    with pytest.raises(PrivacyError, match="at most 100000"):
        skellam.skellam(TREE.stream("x"), 1, variance=deviation * WIDEST)
