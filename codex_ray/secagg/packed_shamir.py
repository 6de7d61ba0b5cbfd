"""Packed Shamir sharing over the field of 2^31 - 1: several numbers in each random polynomial.

A polynomial of degree below R takes the secret numbers as its values at 0, -1, ..., 1 - packing and
random ones elsewhere; member i, counted from 1, gets its value at i (Franklin and Yung 1992). R
shares rebuild, R - packing are uniform and independent of the secrets. Between the two, shares tell
some of the secrets: whoever sets R must count on R - packing. Shares of many dealers add up to
shares of their sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError
from codex_ray.randomness import Stream, fresh_secret
from codex_ray.secagg.packed_decoding import nearest_polynomial, value_at
from codex_ray.secagg.shamir import PRIME
from codex_ray.wire import Words

_Field: TypeAlias = npt.NDArray[np.int64]
Shares: TypeAlias = npt.NDArray[np.uint32]

_SPLIT_BITS = 16
_EXACT_TERMS = 64
"""A 16-bit times a 31-bit number is below 2^47, so float64 adds 64 of them without rounding."""


def share_length(count: int, packing: int) -> int:
    """How many field elements a share of `count` secret numbers has."""
    return -(-count // packing)


def split(numbers: _Field, *, members: int, threshold: int, packing: int) -> Shares:
    """Shares [members, ceil(count/packing)] of signed `numbers` [count].

    The first threshold - packing shares are drawn, the others follow from them and the secrets:
    any as many points fix the polynomial.
    """
    if not 1 <= packing <= threshold <= members:
        raise ValueError(f"{threshold} of {members} with {packing} at a time is no sharing")
    columns = share_length(numbers.size, packing)
    secrets = np.zeros((packing, columns), dtype=np.int64)
    secrets.reshape(-1)[: numbers.size] = numbers % PRIME
    drawn = threshold - packing
    shares = np.empty((members, columns), dtype=np.int64)
    shares[:drawn] = _uniform(drawn * columns).reshape(drawn, columns)
    known = tuple(range(1 - packing, 1)) + tuple(range(1, drawn + 1))
    wanted = tuple(range(drawn + 1, members + 1))
    shares[drawn:] = _at(known, wanted, np.concatenate([secrets[::-1], shares[:drawn]]))
    return shares.astype("<u4")


def rebuild(shares: Mapping[int, Words], *, count: int, threshold: int, packing: int) -> _Field:
    """The `count` secret numbers, signed, from the shares of members (number -> share).

    Raises:
        ProtocolError: too few shares, or they do not lie on one polynomial, so one is wrong. With
            no more than `threshold` of them nothing can be told.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares came, {threshold} are needed")
    members = tuple(sorted(shares))
    values = np.stack([shares[one] for one in members]).astype(np.int64)
    if values.shape[1] != share_length(count, packing) or int(values.max()) >= PRIME:
        raise ProtocolError("a share has another length, or holds a number outside the field")
    known, others = members[:threshold], members[threshold:]
    if others and not np.array_equal(_at(known, others, values[:threshold]), values[threshold:]):
        raise ProtocolError("the shares lie on no polynomial: one of them is wrong")
    numbers = _at(known, tuple(range(0, -packing, -1)), values[:threshold]).reshape(-1)[:count]
    return np.where(numbers > PRIME // 2, numbers - PRIME, numbers)


def outliers(shares: Mapping[int, Words], *, threshold: int) -> tuple[int, ...]:
    """Whose shares lie off the polynomials that all the others lie on, in increasing order.

    Up to half as many can be told as came beyond `threshold`. All columns of a share are judged by
    one combination of them, under weights that follow from the shares: so of wrong shares one in
    2^31 is overlooked, and `rebuild` then refuses those that are left.

    Raises:
        ProtocolError: more of them are wrong, so that nobody can say which.
    """
    members = tuple(sorted(shares))
    values = np.stack([shares[one] for one in members]).astype(np.int64)
    seed = hashlib.sha256(values.astype("<u4").tobytes()).digest()
    weights = (Stream(seed).words(values.shape[1]) % np.uint64(PRIME)).astype(np.int64)
    combined = [int(row) for row in (values * weights % PRIME).sum(axis=1) % PRIME]
    found = nearest_polynomial(members, combined, degree_below=threshold)
    if found is None:
        raise ProtocolError("the shares lie on no polynomial: too many of them are wrong")
    return tuple(
        one for one, value in zip(members, combined, strict=True) if value_at(found, one) != value
    )


def _uniform(count: int) -> _Field:
    """`count` independent uniform field elements: 31 bits, drawn again if they are the modulus."""
    stream = Stream(fresh_secret())
    drawn = np.frombuffer(stream.bytes(4 * count), dtype="<u4") & np.uint32(PRIME)
    while (outside := np.flatnonzero(drawn == PRIME)).size:
        again = np.frombuffer(stream.bytes(4 * outside.size), dtype="<u4")
        drawn[outside] = again & np.uint32(PRIME)
    return drawn.astype(np.int64)


def _at(known: tuple[int, ...], wanted: tuple[int, ...], values: _Field) -> _Field:
    """The values at the points `wanted` of polynomials with `values` [known, columns] at `known`.

    An exact product modulo the prime, by float64 on 16-bit halves of the weights.
    """
    high, low = _weights(known, wanted)
    exact = values.astype(np.float64)
    total = np.zeros((len(wanted), values.shape[1]), dtype=np.int64)
    for start in range(0, len(known), _EXACT_TERMS):
        some = slice(start, start + _EXACT_TERMS)
        upper = (high[:, some] @ exact[some]).astype(np.int64) % PRIME
        lower = (low[:, some] @ exact[some]).astype(np.int64)
        total = (total + (upper << _SPLIT_BITS) + lower) % PRIME
    return total


@lru_cache(maxsize=16)
def _weights(
    known: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Lagrange's weights [wanted, known] modulo the prime, as high and low halves."""
    below = [1] * len(known)
    for index, point in enumerate(known):
        for other in known:
            if other != point:
                below[index] = below[index] * (point - other) % PRIME
    weights = np.empty((len(wanted), len(known)), dtype=np.int64)
    for row, at in enumerate(wanted):
        through = 1
        for point in known:
            through = through * (at - point) % PRIME
        for column, point in enumerate(known):
            if at == point:
                weights[row] = np.arange(len(known)) == column
                break
            weights[row, column] = through * pow(below[column] * (at - point), -1, PRIME) % PRIME
    high, low = np.divmod(weights, 1 << _SPLIT_BITS)
    return high.astype(np.float64), low.astype(np.float64)
