"""Wrong shares are found up to half of those beyond the threshold, and no right one is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ProtocolError
from codex_ray.secagg.packed_decoding import nearest_polynomial, value_at
from codex_ray.secagg.packed_shamir import outliers, split
from codex_ray.secagg.shamir import PRIME

elements = st.integers(0, PRIME - 1)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_polynomial_is_found_beneath_as_many_errors_as_can_be(data):
    count = data.draw(st.integers(1, 24))
    points = data.draw(st.permutations(range(1, 60)))[:count]
    degree_below = data.draw(st.integers(1, count))
    wanted = data.draw(st.lists(elements, min_size=degree_below, max_size=degree_below))
    values = [value_at(wanted, point) for point in points]
    for at in data.draw(st.permutations(range(count)))[: (count - degree_below) // 2]:
        values[at] = data.draw(elements)
    found = nearest_polynomial(points, values, degree_below=degree_below)
    assert found is not None
    assert found + [0] * (degree_below - len(found)) == wanted


def test_what_lies_on_no_polynomial_is_said_to():
    values = [7, 7, 7, 7, 1, 2]
    assert nearest_polynomial(range(1, 7), values, degree_below=1) is not None
    assert nearest_polynomial(range(1, 7), [7, 7, 7, 3, 1, 2], degree_below=1) is None
    assert nearest_polynomial(range(1, 5), [0, 0, 0, 0], degree_below=2) == []


def test_values_follow_horner():
    assert value_at([5, 0, 3], 10) == 305 and value_at([], 10) == 0


@pytest.mark.parametrize(
    ("members", "threshold", "packing", "wrong"), [(36, 26, 1, 5), (10, 6, 2, 2), (7, 5, 5, 1)]
)
def test_wrong_shares_are_found_whichever_column_they_are_wrong_in(
    members, threshold, packing, wrong
):
    rng = np.random.Generator(np.random.PCG64(wrong))
    numbers = rng.integers(-600, 601, 64)
    for _ in range(5):
        dealt = split(numbers, members=members, threshold=threshold, packing=packing)
        shares = {number: dealt[number - 1].copy() for number in range(1, members + 1)}
        assert outliers(shares, threshold=threshold) == ()
        bad = sorted(rng.permutation(members)[:wrong] + 1)
        for one in bad:
            shares[one][rng.integers(dealt.shape[1])] ^= 1
        assert outliers(shares, threshold=threshold) == tuple(bad)


def test_of_too_many_wrong_shares_nobody_is_named():
    dealt = split(np.arange(64), members=10, threshold=6, packing=1)
    shares = {number: dealt[number - 1].copy() for number in range(1, 11)}
    for one in (1, 4, 6):
        shares[one][3 * one] ^= 1
    with pytest.raises(ProtocolError, match="too many of them are wrong"):
        outliers(shares, threshold=6)
