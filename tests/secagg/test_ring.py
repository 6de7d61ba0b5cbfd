"""Ring products are the schoolbook's to the bit; an FFT that is not exact enough is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codex_ray.errors import ProtocolError
from codex_ray.secagg import ring
from codex_ray.secagg.ring import DEGREE, LARGEST_MODULUS_BITS, Multiplicand, error_bound

KEY_NORM = 1.25 * 1.8 * math.sqrt(DEGREE)
RNG = np.random.Generator(np.random.PCG64(5))


def long_rows(count: int, bits: int) -> np.ndarray:
    """Rows with coefficients over the whole range, the ends included."""
    rows = RNG.integers(-(1 << (bits - 1)), 1 << (bits - 1), size=(count, DEGREE))
    rows[0, ::2] = -(1 << (bits - 1))
    rows[0, 1::2] = (1 << (bits - 1)) - 1
    return rows


def short_factor(deviation: float = 1.8) -> np.ndarray:
    """A factor like a key."""
    return np.rint(RNG.normal(0, deviation, DEGREE)).astype(np.int64)


def in_order(stored: np.ndarray) -> np.ndarray:
    """Coefficients of X^0, X^1, ... from the stored order, which has X^j beside X^(j + 1024)."""
    return np.concatenate([stored[0::2], stored[1::2]])


def schoolbook(a: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The product modulo X^2048 + 1 in integers that do not overflow, in stored order."""
    a, s = in_order(a), in_order(s)
    assert int(np.abs(a).max()) * int(np.abs(s).sum()) < 1 << 63
    out = np.zeros(DEGREE, dtype=np.int64)
    for at in np.flatnonzero(s):
        turned = np.concatenate([-a[DEGREE - at :], a[: DEGREE - at]]) if at else a
        out += turned * int(s[at])
    return np.stack([out[: DEGREE // 2], out[DEGREE // 2 :]], axis=1).reshape(-1)


@pytest.mark.parametrize(("bits", "limbs"), [(24, 1), (27, 1), (33, 1), (34, 2), (40, 2), (48, 2)])
def test_products_are_exact(bits, limbs):
    rows, short = long_rows(3, bits), short_factor()
    ready = Multiplicand(rows, bits=bits, norm=KEY_NORM)
    assert ready.limbs == limbs
    got = np.concatenate([block.copy() for block in ready.products(short)])
    want = np.concatenate([schoolbook(row, short) for row in rows])
    inside = (1 << LARGEST_MODULUS_BITS) - 1
    assert [int(it) & inside for it in got] == [int(it) & inside for it in want]


def test_blocks_come_in_order_and_the_last_may_be_short():
    rows, short = long_rows(2 * ring._BLOCK + 3, 27), short_factor()
    ready = Multiplicand(rows, bits=27, norm=KEY_NORM)
    blocks = [block.copy() for block in ready.products(short)]
    assert [block.size for block in blocks] == [ring._BLOCK * DEGREE] * 2 + [3 * DEGREE]
    alone = Multiplicand(rows[-1:], bits=27, norm=KEY_NORM)
    np.testing.assert_array_equal(np.concatenate(list(alone.products(short))), blocks[-1][-DEGREE:])


@pytest.mark.parametrize("bits", [27, 40])
def test_two_products_under_way_do_not_disturb_each_other(bits):
    rows = long_rows(2 * ring._BLOCK, bits)
    ready = Multiplicand(rows, bits=bits, norm=KEY_NORM)
    shorts = [short_factor(), short_factor()]
    alone = [[it.copy() for it in ready.products(short)] for short in shorts]
    together = zip(*(ready.products(short) for short in shorts), strict=True)
    for at, (one, other) in enumerate(together):
        np.testing.assert_array_equal(one, alone[0][at])
        np.testing.assert_array_equal(other, alone[1][at])


@pytest.mark.parametrize("bits", [27, 33, 45])
@pytest.mark.parametrize("deviation", [1.8, 57.0])
def test_errors_stay_below_the_bound_also_at_the_ends_of_the_range(bits, deviation):
    rows, short = long_rows(2, bits), short_factor(deviation)
    spectra = [ring._spectrum(it) for it in (rows, short[None])]
    real = ring._inverse(*spectra, out=np.empty_like(spectra[0])).reshape(2, DEGREE)
    bound = error_bound(bits, math.sqrt(float(short @ short)))
    for row, found in zip(rows, real, strict=True):
        # Whole numbers are taken apart first: a double has no room for the error beside them.
        error = max(
            abs(int(near) - want + (value - near))
            for value, near, want in zip(found, np.rint(found), schoolbook(row, short), strict=True)
        )
        assert bound / 1e5 < error < bound


@pytest.mark.parametrize("turn", [1 + 1e-6, np.nan])
def test_an_fft_that_is_not_exact_is_noticed(monkeypatch, turn):
    ready = Multiplicand(long_rows(1, 33), bits=33, norm=KEY_NORM)
    short = short_factor()
    monkeypatch.setattr(ring, "_TURN_BACK", ring._TURN_BACK * turn)
    with pytest.raises(ProtocolError, match="off an integer"):
        list(ready.products(short))


def test_without_the_check_an_inexact_fft_gives_a_wrong_product(monkeypatch):
    rows, short = long_rows(1, 33), short_factor()
    ready = Multiplicand(rows, bits=33, norm=KEY_NORM)
    right = np.concatenate([block.copy() for block in ready.products(short)])
    monkeypatch.setattr(ring, "_TURN_BACK", ring._TURN_BACK * (1 + 1e-6))
    monkeypatch.setattr(ring, "_FARTHEST", 0.51)
    wrong = np.concatenate([block.copy() for block in ready.products(short)])
    assert np.count_nonzero(right != wrong) > DEGREE // 2


def test_a_factor_longer_than_announced_is_refused():
    ready = Multiplicand(long_rows(1, 33), bits=33, norm=KEY_NORM)
    with pytest.raises(ProtocolError, match="at most"):
        list(ready.products(short_factor(4.0)))


def test_what_no_two_limbs_carry_is_refused():
    with pytest.raises(ProtocolError, match="49 bits, 48 at most"):
        Multiplicand(long_rows(1, 49), bits=49, norm=KEY_NORM)
    with pytest.raises(ProtocolError, match="no exact product"):
        Multiplicand(long_rows(1, 48), bits=48, norm=1e7)
