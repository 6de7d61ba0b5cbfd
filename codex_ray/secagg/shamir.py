"""Shamir's t-of-k sharing over the field of 2^31 - 1, whole secrets at a time as numpy matrices.

A secret is cut into limbs of 30 bits (so that no limb equals the modulus), and each limb is the
constant term of its own random polynomial of degree t - 1. Holder i, counted from 1, gets the
values at i. Fewer than t values of a polynomial are uniform and independent of its constant term
(Shamir 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

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


def split(secret: bytes, *, holders: int, threshold: int) -> list[bytes]:
    """One share for each holder 1..holders, any `threshold` of which rebuild `secret`."""
    return [share for (share,) in split_all(secret, holders=holders, threshold=threshold)]


def split_all(*secrets: bytes, holders: int, threshold: int) -> list[tuple[bytes, ...]]:
    """For each holder 1..holders its share of each of `secrets`, every one shared by itself."""
    if not 1 <= threshold <= holders:
        raise ValueError(f"{threshold} of {holders} is no sharing")
    limbs = np.concatenate([_limbs(secret) for secret in secrets])
    shares = np.broadcast_to(limbs, (holders, limbs.size)).copy()  # [k, limbs]
    if threshold > 1:
        coefficients = _uniform_field((threshold - 1) * limbs.size).reshape(threshold - 1, -1)
        shares = (shares + _matmul(_powers(holders, threshold), coefficients)) % PRIME
    ends = list(accumulate(share_bytes(len(secret)) for secret in secrets))
    rows = [row.tobytes() for row in shares.astype("<u4")]
    return [tuple(row[a:b] for a, b in pairwise([0, *ends])) for row in rows]


def reconstruct(shares: Mapping[int, bytes], *, threshold: int, secret_bytes: int) -> bytes:
    """The secret, from the first `threshold` of `shares` (holder's number -> share).

    With a wrong share among them the result is a wrong secret: whoever calls compares it with a
    public key or a commitment.

    Raises:
        ProtocolError: too few shares, or shares that cannot come from a secret of this length.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares came, {threshold} are needed")
    points = tuple(sorted(shares))[:threshold]
    values = _parse([shares[point] for point in points], secret_bytes)  # [t, limbs]
    weights = _lagrange_at_zero(points)
    limbs = (weights[:, None] * values % PRIME).sum(axis=0) % PRIME
    whole = sum(int(limb) << (LIMB_BITS * at) for at, limb in enumerate(limbs))
    if int(limbs.max()) >> LIMB_BITS or whole >> (8 * secret_bytes):
        raise ProtocolError("these shares rebuild no secret: one of them is wrong")
    return whole.to_bytes(secret_bytes, "little")


def _limbs(secret: bytes) -> _Field:
    whole = int.from_bytes(secret, "little")
    mask = (1 << LIMB_BITS) - 1
    return np.array(
        [(whole >> (LIMB_BITS * at)) & mask for at in range(limb_count(len(secret)))],
        dtype=np.int64,
    )


def _parse(shares: Sequence[bytes], secret_bytes: int) -> _Field:
    size = share_bytes(secret_bytes)
    for share in shares:
        if len(share) != size:
            raise ProtocolError(f"a share has {len(share)} bytes instead of {size}")
    values = np.frombuffer(b"".join(shares), dtype="<u4").astype(np.int64)
    if int(values.max()) >= PRIME:
        raise ProtocolError("a share holds a number outside the field")
    return values.reshape(len(shares), -1)


def _uniform_field(count: int) -> _Field:
    """`count` independent uniform field elements: 31 bits, drawn again if they are the modulus."""
    drawn = np.empty(0, dtype=np.int64)
    while drawn.size < count:
        raw = np.frombuffer(fresh_secret(4 * (count - drawn.size)), dtype="<u4") & PRIME
        drawn = np.concatenate([drawn, raw[raw < PRIME].astype(np.int64)])
    return drawn


@lru_cache(maxsize=64)
def _powers(holders: int, threshold: int) -> tuple[npt.NDArray[np.float64], ...]:
    """The powers i^1..i^(t-1) for i = 1..k modulo the prime [k, t-1], as high and low halves."""
    points = np.arange(1, holders + 1, dtype=np.int64)
    columns = [points]
    for _ in range(threshold - 2):
        columns.append(columns[-1] * points % PRIME)
    powers = np.stack(columns, axis=1)
    high, low = np.divmod(powers, 1 << _SPLIT_BITS)
    return high.astype(np.float64), low.astype(np.float64)


def _matmul(powers: tuple[npt.NDArray[np.float64], ...], coefficients: _Field) -> _Field:
    """The exact product [k, t-1] x [t-1, limbs] modulo the prime, by float64 on 16-bit halves."""
    high, low = powers
    values = coefficients.astype(np.float64)
    total = np.zeros((high.shape[0], coefficients.shape[1]), dtype=np.int64)
    for start in range(0, coefficients.shape[0], _EXACT_TERMS):
        some = slice(start, start + _EXACT_TERMS)
        upper = (high[:, some] @ values[some]).astype(np.int64) % PRIME
        lower = (low[:, some] @ values[some]).astype(np.int64)
        total = (total + (upper << _SPLIT_BITS) + lower) % PRIME
    return total


@lru_cache(maxsize=256)
def _lagrange_at_zero(points: tuple[int, ...]) -> _Field:
    """The weights [t] that give a polynomial's constant term from its values at `points`."""
    at = np.array(points, dtype=np.int64)
    above = np.ones_like(at)
    below = np.ones_like(at)
    for index, point in enumerate(points):
        others = np.arange(at.size) != index
        above[others] = above[others] * point % PRIME
        below[others] = below[others] * ((point - at[others]) % PRIME) % PRIME
    inverse = np.array([pow(int(value), -1, PRIME) for value in below], dtype=np.int64)
    return above * inverse % PRIME
