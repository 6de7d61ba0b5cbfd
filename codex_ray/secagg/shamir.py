"""Shamir's t-of-k sharing over the field of 2^31 - 1, whole secrets at a time as numpy matrices.

A secret is cut into limbs of 30 bits (so that no limb equals the modulus), and each limb is the
constant term of its own random polynomial of degree t - 1. Holder i, counted from 1, gets the
values at i. Fewer than t values of a polynomial are uniform and independent of its constant term
(Shamir 1979).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError
from codex_ray.randomness import fresh_secret

PRIME = (1 << 31) - 1
LIMB_BITS = 30

_Field = npt.NDArray[np.int64]

_SPLIT_BITS = 16
_EXACT_TERMS = 1 << (53 - 31 - _SPLIT_BITS)
"""A 16-bit times a 31-bit number is below 2^47, so float64 adds 64 of them without rounding."""


def limb_count(secret_bytes: int) -> int:
    """How many limbs a secret of `secret_bytes` bytes has."""
    return -(-8 * secret_bytes // LIMB_BITS)


def share_bytes(secret_bytes: int) -> int:
    """The length of one share: a 4-byte little-endian field element for each limb."""
    return 4 * limb_count(secret_bytes)


def split(*secrets: bytes, holders: int, threshold: int) -> list[bytes]:
    """For each holder 1..holders its shares of all `secrets`, one after the other.

    Any `threshold` shares rebuild a secret; each secret is shared by itself.
    """
    if not 1 <= threshold <= holders:
        raise ValueError(f"{threshold} of {holders} is no sharing")
    limbs = np.array([limb for secret in secrets for limb in _limbs(secret)], dtype=np.int64)
    drawn = _uniform_field((threshold - 1) * limbs.size).reshape(threshold - 1, limbs.size)
    raw = _values(_powers(holders, threshold), limbs, drawn).astype("<u4").tobytes()
    size = 4 * limbs.size
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def reconstruct(shares: Mapping[int, bytes], *, threshold: int, secret_bytes: int) -> bytes:
    """The secret, from the first `threshold` of `shares` (holder's number -> share).

    With a wrong share among them the result is a wrong secret: whoever calls compares it with a
    public key or a commitment.

    Raises:
        ProtocolError: too few shares, or shares that cannot come from a secret of this length.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares came, {threshold} are needed")
    size, points = share_bytes(secret_bytes), sorted(shares)[:threshold]
    for point in points:
        if len(shares[point]) != size:
            raise ProtocolError(f"a share has {len(shares[point])} bytes instead of {size}")
    values = np.frombuffer(b"".join(shares[point] for point in points), dtype="<u4")
    if int(values.max()) >= PRIME:
        raise ProtocolError("a share holds a number outside the field")
    whole = values.reshape(1, threshold, -1)
    (secret,) = reconstruct_all(np.array([points]), whole, secret_bytes=secret_bytes)
    if secret is None:
        raise ProtocolError("these shares rebuild no secret: one of them is wrong")
    return secret


def reconstruct_all(
    points: npt.NDArray[np.integer], values: npt.NDArray[np.uint32], *, secret_bytes: int
) -> list[bytes | None]:
    """The secret of each row of shares, or None where no secret has such shares.

    Args:
        points: the numbers [n, t] of the holders, all different in a row.
        values: their shares [n, t, limbs] as field elements.
        secret_bytes: length of every secret.
    """
    rows = [_lagrange_at_zero(tuple(row)) for row in points.tolist()]
    weights = np.array(rows, dtype=np.int64).reshape(points.shape)  # [n, t]
    limbs = (weights[:, :, None] * values % PRIME).sum(axis=1) % PRIME  # [n, limbs]
    sound = (values.max(axis=(1, 2)) < PRIME) & (limbs.max(axis=1) >> LIMB_BITS == 0)
    wholes = [
        sum(limb << (LIMB_BITS * at) for at, limb in enumerate(row)) for row in limbs.tolist()
    ]
    return [
        whole.to_bytes(secret_bytes, "little") if fits and not whole >> (8 * secret_bytes) else None
        for whole, fits in zip(wholes, sound.tolist(), strict=True)
    ]


def _limbs(secret: bytes) -> list[int]:
    whole, mask = int.from_bytes(secret, "little"), (1 << LIMB_BITS) - 1
    return [(whole >> (LIMB_BITS * at)) & mask for at in range(limb_count(len(secret)))]


def _uniform_field(count: int) -> _Field:
    """`count` independent uniform field elements: 31 bits, drawn again if they are the modulus."""
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < count:
        raw = np.frombuffer(fresh_secret(4 * (count - drawn.size)), dtype="<u4") & PRIME
        drawn = np.concatenate([drawn, raw[raw < PRIME]])
    return drawn


@lru_cache(maxsize=64)
def _powers(holders: int, threshold: int) -> tuple[npt.NDArray[np.float64], ...]:
    """The powers i^1..i^(t-1) for i = 1..k modulo the prime [k, t-1], as high and low halves."""
    points = np.arange(1, holders + 1, dtype=np.int64)
    powers = np.empty((holders, threshold - 1), dtype=np.int64)
    power = np.ones_like(points)
    for at in range(threshold - 1):
        power = power * points % PRIME
        powers[:, at] = power
    high, low = np.divmod(powers, 1 << _SPLIT_BITS)
    return high.astype(np.float64), low.astype(np.float64)


def _values(
    powers: tuple[npt.NDArray[np.float64], ...], constants: _Field, coefficients: _Field
) -> _Field:
    """The values [k, limbs] of the polynomials at 1..k, by float64 on 16-bit halves, exact.

    Args:
        powers: of the points, from the first on [k, t-1].
        constants: each polynomial's constant term [limbs].
        coefficients: its others [t-1, limbs].
    """
    high, low = powers
    terms = coefficients.astype(np.float64)
    total = np.tile(constants, (high.shape[0], 1))
    for start in range(0, coefficients.shape[0], _EXACT_TERMS):
        some = slice(start, start + _EXACT_TERMS)
        upper = (high[:, some] @ terms[some]).astype(np.int64) % PRIME
        lower = (low[:, some] @ terms[some]).astype(np.int64)
        total = (total + (upper << _SPLIT_BITS) + lower) % PRIME
    return total


@lru_cache(maxsize=256)
def _lagrange_at_zero(points: tuple[int, ...]) -> _Field:
    """The weights [t] that give a polynomial's constant term from its values at `points`.

    That of x_i is the product of x_j / (x_j - x_i) over the other points x_j.
    """
    at = np.array(points, dtype=np.int64)
    factors = at[:, None] * _inverses(max(points))[at[:, None] - at] % PRIME  # [j, i]
    np.fill_diagonal(factors, 1)
    while len(factors) > 1:
        half = len(factors) // 2
        products = factors[:half] * factors[half : 2 * half] % PRIME
        factors = np.concatenate([products, factors[2 * half :]])
    weights: _Field = factors[0]
    return weights


@lru_cache(maxsize=64)
def _inverses(largest: int) -> _Field:
    """1/d modulo the prime at index d, from -largest to largest; at 0 there is nothing to read."""
    positive = [pow(number, -1, PRIME) for number in range(1, largest + 1)]
    negative = [PRIME - inverse for inverse in reversed(positive)]  # numpy counts them from the end
    return np.array([0, *positive, *negative], dtype=np.int64)
