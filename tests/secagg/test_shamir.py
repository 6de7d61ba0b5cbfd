"""Any t shares rebuild a secret, t - 1 say nothing, and the matrix arithmetic is exact."""

from __future__ import annotations

import os
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from codex_ray.errors import ProtocolError
from codex_ray.secagg import shamir
from codex_ray.secagg.shamir import PRIME, reconstruct, share_bytes, split


@pytest.mark.parametrize("holders", range(1, 7))
def test_every_subset_of_threshold_shares_rebuilds(holders):
    for threshold in range(1, holders + 1):
        secret = os.urandom(8)
        shares = dict(enumerate(split(secret, holders=holders, threshold=threshold), start=1))
        for some in combinations(shares, threshold):
            subset = {number: shares[number] for number in some}
            assert reconstruct(subset, threshold=threshold, secret_bytes=8) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_extreme_secrets_round_trip(secret):
    shares = dict(enumerate(split(secret, holders=9, threshold=5), start=1))
    assert reconstruct(shares, threshold=5, secret_bytes=32) == secret
    assert {len(share) for share in shares.values()} == {share_bytes(32)} == {36}


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 150), st.data())
def test_any_threshold_shares_rebuild(secret, threshold, data):
    holders = data.draw(st.integers(threshold, 200))
    shares = split(secret, holders=holders, threshold=threshold)
    order = data.draw(st.permutations(range(holders)))[:threshold]
    some = {at + 1: shares[at] for at in order}
    assert reconstruct(some, threshold=threshold, secret_bytes=32) == secret


@pytest.mark.parametrize("threshold", [1, 2, 3, 7, 8])
def test_many_secrets_are_rebuilt_as_each_by_itself_and_what_is_none_is_left_out(threshold):
    """One that is right, one too wide, one with a limb too wide, one outside the field."""
    secret, holders = os.urandom(32), 9
    rows = []
    for at in range(5):
        points = sorted(np.random.default_rng(at).permutation(holders)[:threshold] + 1)
        shares = split(secret, holders=holders, threshold=threshold)
        rows.append((points, [np.frombuffer(shares[point - 1], "<u4") for point in points]))
    points = np.array([row for row, _ in rows])
    values = np.array([row for _, row in rows])
    # Adding a constant to every share of a limb adds it to the limb.
    values[1, :, 8] = (values[1, :, 8] + (1 << 16)) % PRIME  # the last limb has 16 bits
    first = int.from_bytes(secret[:4], "little") % (1 << 30)
    values[2, :, 0] = (values[2, :, 0] + np.uint64(PRIME - 1 - first)) % PRIME
    values[3, 0, 4] = PRIME
    got = shamir.reconstruct_all(points, values, secret_bytes=32)
    assert got == [secret, None, None, None, secret]
    none = np.zeros((0, threshold), np.uint32), np.zeros((0, threshold, 9), np.uint32)
    assert shamir.reconstruct_all(*none, secret_bytes=32) == []


@pytest.mark.parametrize("threshold", [1, 2, 4, 5])
def test_secrets_shared_together_are_shared_each_by_itself(threshold):
    secrets = (os.urandom(32), bytes(32), os.urandom(4))
    dealt = split(*secrets, holders=5, threshold=threshold)
    assert [len(shares) for shares in dealt] == [36 + 36 + 8] * 5
    parts = (slice(0, 36), slice(36, 72), slice(72, 80))
    for secret, part in zip(secrets, parts, strict=True):
        shares = {holder: it[part] for holder, it in enumerate(dealt, start=1)}
        for some in combinations(shares, threshold):
            subset = {holder: shares[holder] for holder in some}
            size = len(secret)
            assert reconstruct(subset, threshold=threshold, secret_bytes=size) == secret


@pytest.fixture
def field_of_seven(monkeypatch):
    """The same code over a field that is small enough to try everything."""
    monkeypatch.setattr(shamir, "PRIME", 7)
    monkeypatch.setattr(shamir, "LIMB_BITS", 2)
    tables = (shamir._powers, shamir._lagrange_at_zero, shamir._inverses)
    for table in tables:
        table.cache_clear()
    yield
    for table in tables:
        table.cache_clear()


def test_exhaustively_two_shares_say_nothing_and_three_everything(field_of_seven, monkeypatch):
    """Threshold 3 of 6: whatever the secret, two shares take each of 49 values exactly once."""
    for limb in range(4):
        secret = bytes([0b01010101 * limb])
        seen = {pair: set() for pair in combinations(range(1, 7), 2)}
        for one, two in product(range(7), repeat=2):
            drawn = np.repeat(np.array([one, two], dtype=np.int64), 4)
            monkeypatch.setattr(shamir, "_uniform_field", lambda _, drawn=drawn: drawn)
            shares = dict(enumerate(split(secret, holders=6, threshold=3), start=1))
            for some in combinations(shares, 3):
                subset = {holder: shares[holder] for holder in some}
                assert reconstruct(subset, threshold=3, secret_bytes=1) == secret
            for pair, values in seen.items():
                values.add(tuple(shares[holder][0] for holder in pair))
        assert all(values == set(product(range(7), repeat=2)) for values in seen.values())


@pytest.mark.parametrize(("holders", "threshold"), [(3, 4), (3, 0), (0, 0)])
def test_no_sharing_is_refused(holders, threshold):
    with pytest.raises(ValueError, match="is no sharing"):
        split(bytes(32), holders=holders, threshold=threshold)


def test_too_few_shares_are_refused():
    shares = dict(enumerate(split(bytes(32), holders=5, threshold=3), start=1))
    with pytest.raises(ProtocolError, match="3 are needed"):
        reconstruct({1: shares[1], 2: shares[2]}, threshold=3, secret_bytes=32)


@pytest.mark.parametrize(
    ("share", "why"), [(b"\xff" * 36, "outside the field"), (bytes(35), "35 bytes")]
)
def test_malformed_shares_are_refused(share, why):
    shares = dict(enumerate(split(bytes(32), holders=3, threshold=2), start=1)) | {1: share}
    with pytest.raises(ProtocolError, match=why):
        reconstruct(shares, threshold=2, secret_bytes=32)


def _low_shares(secret: bytes) -> list[int]:
    """How often each of 16 value ranges holds the first limb of one of two shares of three."""
    seen = [split(secret, holders=5, threshold=3)[:2] for _ in range(1500)]
    limbs = [int.from_bytes(share[:4], "little") for pair in seen for share in pair]
    return np.bincount(np.array(limbs) * 16 // (PRIME + 1), minlength=16).tolist()


def test_fewer_than_threshold_shares_of_two_secrets_look_alike():
    table = np.array([_low_shares(bytes(4)), _low_shares(b"\xff" * 4)])
    assert (table > 0).all()
    assert chi2_contingency(table).pvalue > 1e-9


def test_without_random_coefficients_shares_would_tell(monkeypatch):
    monkeypatch.setattr(shamir, "_uniform_field", lambda count: np.zeros(count, dtype=np.int64))
    assert _low_shares(bytes(4)) != _low_shares(b"\xff" * 4)


def test_the_float_product_is_exact_at_its_bound():
    holders, threshold = 600, 500
    coefficients = np.full((threshold - 1, 2), PRIME - 2, dtype=np.int64)
    constants = np.full(2, PRIME - 1, dtype=np.int64)
    got = shamir._values(shamir._powers(holders, threshold), constants, coefficients)
    for point in (1, 2, 77, holders):
        want = sum((PRIME - 2) * pow(point, power, PRIME) for power in range(1, threshold)) - 1
        want %= PRIME
        assert got[point - 1].tolist() == [want, want]


def test_the_modulus_itself_is_drawn_again(monkeypatch):
    draws = [b"\xff" * 4 + bytes(4), b"\x05\0\0\x80"]
    monkeypatch.setattr(shamir, "fresh_secret", lambda count: draws.pop(0)[:count])
    assert shamir._uniform_field(2).tolist() == [0, 5]


def test_field_elements_are_below_the_prime_and_reach_it():
    drawn = shamir._uniform_field(200_000)
    assert drawn.min() >= 0 and drawn.max() < PRIME
    assert drawn.max() > PRIME - 200_000
