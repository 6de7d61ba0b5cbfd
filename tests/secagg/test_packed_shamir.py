"""Packed shares rebuild from any R, tell nothing up to R - packing, and too much in between."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ProtocolError
from codex_ray.secagg import packed_shamir
from codex_ray.secagg.packed_shamir import rebuild, share_length, split
from codex_ray.secagg.shamir import PRIME

RNG = np.random.Generator(np.random.PCG64(7))


def numbers(count: int, *, reach: int = 2**29) -> np.ndarray:
    return RNG.integers(-reach, reach + 1, count)


def of(shares: np.ndarray, members) -> dict[int, np.ndarray]:
    """The shares of those members, by number."""
    return {one: shares[one - 1] for one in members}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_threshold_shares_rebuild_signed_numbers(data):
    members = data.draw(st.integers(1, 90))
    threshold = data.draw(st.integers(1, members))
    packing = data.draw(st.integers(1, threshold))
    secret = numbers(data.draw(st.integers(1, 50)))
    shares = split(secret, members=members, threshold=threshold, packing=packing)
    assert shares.shape == (members, share_length(secret.size, packing))
    some = data.draw(st.permutations(range(1, members + 1)))[
        : data.draw(st.integers(threshold, members))
    ]
    got = rebuild(of(shares, some), count=secret.size, threshold=threshold, packing=packing)
    np.testing.assert_array_equal(got, secret)


def test_shares_add_up_to_shares_of_the_sums():
    secrets = [numbers(40, reach=2**20) for _ in range(300)]
    total = sum(split(it, members=7, threshold=5, packing=2).astype(np.uint64) for it in secrets)
    shares = (total % PRIME).astype(np.uint32)
    got = rebuild(of(shares, (7, 1, 3, 4, 6)), count=40, threshold=5, packing=2)
    np.testing.assert_array_equal(got, sum(secrets))


@pytest.mark.parametrize("packing", [1, 2, 3])
def test_threshold_minus_packing_shares_fit_every_secret(packing):
    threshold, members = 5, 7
    shares = split(numbers(packing), members=members, threshold=threshold, packing=packing)
    other = numbers(packing)
    for seen in combinations(range(1, members + 1), threshold - packing):
        # The polynomial through these shares and any other secrets: as likely as the real one.
        known = tuple(range(1 - packing, 1)) + seen
        values = np.concatenate([other[::-1, None] % PRIME, shares[[s - 1 for s in seen]]])
        forged = packed_shamir._at(known, tuple(range(1, members + 1)), values.astype(np.int64))
        np.testing.assert_array_equal(forged[[s - 1 for s in seen]], shares[[s - 1 for s in seen]])
        got = rebuild(of(forged, range(1, 8)), count=packing, threshold=threshold, packing=packing)
        np.testing.assert_array_equal(got, other)


def test_drawn_shares_are_uniform_and_derived_ones_too():
    shares = split(np.zeros(20_000, dtype=np.int64), members=3, threshold=2, packing=1)
    for row in shares:
        seen = np.bincount(row >> 27, minlength=16)
        assert abs(seen - 1250).max() < 5.5 * np.sqrt(1250)
    assert np.any(shares[0] != shares[1])


def test_one_share_short_of_the_threshold_tells_small_secrets_if_they_are_packed():
    """Why R > (m + T)/2 is not enough with packing: a second claim could get R - 1 answers."""
    threshold, packing = 26, 8
    secret = numbers(packing, reach=600)  # the sum of a thousand keys is that small
    shares = split(secret, members=36, threshold=threshold, packing=packing)
    seen = tuple(range(1, threshold))
    guesses = np.arange(-600, 601)
    known = (0, *seen)
    values = np.concatenate(
        [guesses[None] % PRIME, np.repeat(shares[[s - 1 for s in seen]], guesses.size, axis=1)]
    )
    others = packed_shamir._at(known, tuple(range(-1, -packing, -1)), values.astype(np.int64))
    signed = np.where(others > PRIME // 2, others - PRIME, others)
    fitting = np.flatnonzero((abs(signed) <= 600).all(axis=0))
    assert [guesses[it] for it in fitting] == [secret[0]]
    np.testing.assert_array_equal(signed[:, fitting[0]], secret[1:])


def test_a_wrong_share_is_noticed_beyond_the_threshold_and_only_there():
    secret = numbers(10)
    shares = split(secret, members=6, threshold=4, packing=1)
    shares[2, 5] ^= 1
    with pytest.raises(ProtocolError, match="one of them is wrong"):
        rebuild(of(shares, (1, 2, 3, 4, 5)), count=10, threshold=4, packing=1)
    blind = rebuild(of(shares, (1, 2, 3, 4)), count=10, threshold=4, packing=1)
    assert np.count_nonzero(blind != secret) == 1


@pytest.mark.parametrize("fault", ["few", "long", "outside"])
def test_shares_that_cannot_be_are_refused(fault):
    shares = of(split(numbers(10), members=6, threshold=4, packing=2), range(1, 7))
    if fault == "few":
        shares = {one: shares[one] for one in (1, 2, 3)}
    elif fault == "long":
        shares = {one: np.append(it, np.uint32(0)) for one, it in shares.items()}
    else:
        shares[1] = np.full_like(shares[1], PRIME)
    with pytest.raises(ProtocolError):
        rebuild(shares, count=10, threshold=4, packing=2)


@pytest.mark.parametrize(("members", "threshold", "packing"), [(3, 4, 1), (3, 2, 3), (3, 2, 0)])
def test_what_is_no_sharing_is_refused(members, threshold, packing):
    with pytest.raises(ValueError, match="no sharing"):
        split(numbers(4), members=members, threshold=threshold, packing=packing)


def test_the_modulus_is_drawn_again(monkeypatch):
    class Scripted:
        def __init__(self, _):
            self.script = [np.array([5, PRIME, 2**32 - 1, 7]), np.array([PRIME, 8]), np.array([9])]

        def bytes(self, count):
            words = self.script.pop(0)
            assert 4 * words.size == count
            return words.astype("<u4").tobytes()

    monkeypatch.setattr(packed_shamir, "Stream", Scripted)
    assert packed_shamir._uniform(4).tolist() == [5, 9, 8, 7]
