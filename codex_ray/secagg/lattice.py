"""The mask of the one-shot sum: a summand under ring learning with errors, added up still hidden.

A client hides its residues x under a fresh short key s as c = A s + e + 2^k x modulo 2^w, where A
is public and s and e are discrete Gaussians (as in Willow, Bell-Clark et al. 2025, and OPA,
Karthikeyan and Polychroniadou 2025). Masks add up: the sum of all c is the sum of the x under the
sum of the s. Who learns the sum of the keys learns the sum of the summands, and the sum of the e as
well: the assumption is therefore Hint-RLWE, ring learning with errors where those sums are known.

The residue stands at the top of the word: w = k + bits. What overflows the sum of the x modulo
2^bits overflows the word modulo 2^w, so no head-room for a carry is needed, and the modulus, on
which both speed and security depend, stays as small as it can be. The sum of the noise must stay
below 2^(k-1), and does but for 2^-60 a coordinate: a sum of n discrete Gaussians is subgaussian
with variance n sigma^2 (Canonne, Kamath and Steinke 2020), of which k leaves 9.2 deviations.

Polynomials have degree 2048. What is claimed about the hardness stands in docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.randomness import Stream, fresh_secret
from codex_ray.secagg.gaussian import DiscreteGaussian, discrete_gaussian
from codex_ray.secagg.keys import bind
from codex_ray.secagg.ring import DEGREE, Integers, Multiplicand
from codex_ray.types import Residues, SessionContext, word_type
from codex_ray.wire import Words

KEY_WIDTH_SQUARED = "20.25"
NOISE_WIDTH_SQUARED = "40.5"
"""Widths 4.5 and 4.5 sqrt 2: standard deviations 1.80 and 2.54."""

LARGEST_SUM = 1 << 19
"""So many keys still add up to 15-bit numbers, which a field element holds two of."""

_DEVIATIONS = 9.2
_SLACK = 60 * math.log(2)
"""Honest sums are taken for broken ones with 2^-60."""
_KEY_MARGIN = 1.25
_LIMB_BITS = 15
KEY_ELEMENTS = DEGREE // 2


def key_distribution() -> DiscreteGaussian:
    """What the coefficients of a key are drawn from."""
    return discrete_gaussian(KEY_WIDTH_SQUARED)


def noise_distribution() -> DiscreteGaussian:
    """What hides A s is drawn from."""
    return discrete_gaussian(NOISE_WIDTH_SQUARED)


@dataclass(frozen=True)
class Modulus:
    """The word of a masked input: noise below, residue above.

    Attributes:
        noise_bits: k, for the sum of the noise.
        bits: of the residue.
    """

    noise_bits: int
    bits: int

    @classmethod
    def of_sum(cls, members: int, bits: int) -> Modulus:
        """The smallest that carries a sum of residues modulo 2^bits over up to `members`.

        Raises:
            ConfigError: no field element could carry the sum of so many keys.
        """
        if members > LARGEST_SUM:
            raise ConfigError(
                f"a one-shot sum takes {LARGEST_SUM} clients at most, but the cohort is {members}: "
                "lower the cohort"
            )
        reach = _DEVIATIONS * noise_distribution().sigma * math.sqrt(members)
        return cls(math.ceil(math.log2(2 * reach)), bits)

    @property
    def width(self) -> int:
        """w: masked inputs are numbers modulo 2^w."""
        return self.noise_bits + self.bits

    @property
    def high_type(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """The word for the bits from the 33rd on; where there are none, its vector is empty."""
        return np.dtype(np.uint8) if self.width <= 40 else np.dtype(np.uint16)

    @property
    def work_type(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """The smallest word that holds a number modulo 2^w."""
        return np.dtype(np.uint32) if self.width <= 32 else np.dtype(np.uint64)


@dataclass(frozen=True, eq=False)
class Masked:
    """Masked inputs, or a sum of them: numbers [d] modulo 2^w as their low 32 bits and the rest.

    Attributes:
        low: uint32 [d].
        high: [d] above 32 bits, else empty; only the lowest w - 32 bits of it are meant.
    """

    low: npt.NDArray[np.uint32]
    high: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

    @classmethod
    def nothing(cls, dimension: int, modulus: Modulus) -> Masked:
        """The empty sum."""
        above = dimension if modulus.width > 32 else 0
        high: npt.NDArray[Any] = np.zeros(above, dtype=modulus.high_type)
        return cls(np.zeros(dimension, dtype=np.uint32), high)

    def fits(self, low: Words, high: Words) -> bool:
        """Whether these can be added to it."""
        return (low.shape, low.dtype, high.shape, high.dtype) == (
            self.low.shape,
            self.low.dtype,
            self.high.shape,
            self.high.dtype,
        )

    def add(self, low: Words, high: Words) -> None:
        """Add another one in place."""
        np.add(self.low, low, out=self.low)
        if self.high.size:
            carry = np.less(self.low, low)
            np.add(self.high, high, out=self.high)
            np.add(self.high, carry, out=self.high)


def fresh_key() -> npt.NDArray[np.int32]:
    """A key [2048] from the operating system's randomness, for one masked input."""
    return key_distribution().draw(DEGREE, Stream(fresh_secret()))


def mask(
    summand: Residues, key: npt.NDArray[np.int32], *, context: SessionContext, modulus: Modulus
) -> Masked:
    """The summand [d] under `key`, with fresh noise: hidden from everyone without the key.

    A key that masked two summands would give away almost all of their difference.
    """
    masked = Masked.nothing(summand.size, modulus)
    noise, kind = Stream(fresh_secret()), modulus.work_type
    for piece, product in _products(key.astype(np.int64), context, modulus, keys=1):
        values: npt.NDArray[Any] = product.astype(kind)
        values += noise_distribution().draw(values.size, noise).astype(kind)
        values += np.left_shift(summand[piece], modulus.noise_bits, dtype=kind)
        values &= (1 << modulus.width) - 1
        masked.low[piece] = values
        if masked.high.size:
            masked.high[piece] = values >> 32
    return masked


def unmask(
    total: Masked, keys: Integers, *, context: SessionContext, modulus: Modulus, summed: int
) -> Residues:
    """The sum [d] modulo 2^bits of `summed` summands, from their masked sum and that of the keys.

    Raises:
        ProtocolError: what remains below the residues is no sum of noise, so one of the keys was
            not the one that a summand was masked with.
    """
    _check_size(keys, summed, key_distribution(), what="the sum of the keys")
    result = np.empty(total.low.size, dtype=word_type(modulus.bits))
    kind, half = modulus.work_type, 1 << (modulus.noise_bits - 1)
    squares = 0.0
    for piece, product in _products(keys, context, modulus, keys=summed):
        values: npt.NDArray[Any] = total.low[piece].astype(kind)
        if total.high.size:
            values |= np.left_shift(total.high[piece], 32, dtype=kind)
        values -= product.astype(kind)
        values += half
        values &= (1 << modulus.width) - 1
        result[piece] = values >> modulus.noise_bits
        noise = (values & (2 * half - 1)).astype(np.float64) - half
        squares += float(np.sum(noise * noise))
    _check_squares(squares, result.size, summed, noise_distribution(), what="the sum")
    return result


def key_to_field(key: npt.NDArray[np.int32]) -> Integers:
    """A key as integers [1024] that add up as keys do, two 15-bit coefficients in each."""
    return key[:KEY_ELEMENTS] + (key[KEY_ELEMENTS:].astype(np.int64) << _LIMB_BITS)


def keys_from_field(elements: Integers) -> Integers:
    """The sum of keys [2048] from the sum of what `key_to_field` gave, as signed integers."""
    half = 1 << (_LIMB_BITS - 1)
    low = ((elements + half) & (2 * half - 1)) - half
    return np.concatenate([low, (elements - low) >> _LIMB_BITS])


def _products(
    key: Integers, context: SessionContext, modulus: Modulus, *, keys: int
) -> Iterator[tuple[slice, npt.NDArray[np.uint64]]]:
    """A times the sum of `keys` keys, in pieces: where a piece stands, and its numbers."""
    norm = _KEY_MARGIN * key_distribution().sigma * math.sqrt(DEGREE * keys)
    # Clients share the matrix for one key; the server's, for a sum of keys, is used once.
    matrix = public_matrix if keys == 1 else public_matrix.__wrapped__
    start = 0
    for block in matrix(context, modulus.width, norm).products(key):
        stop = min(start + block.size, context.dimension)
        yield slice(start, stop), block[: stop - start]
        start = stop


@lru_cache(maxsize=2)
def public_matrix(context: SessionContext, width: int, norm: float) -> Multiplicand:
    """A, polynomials [ceil(d/2048)] uniform modulo 2^width, which follow from the context alone.

    Every client of a session needs it, and no client of another: a process keeps the last ones.
    """
    rows = -(-context.dimension // DEGREE)
    words = Stream(bind(context, "public matrix", width)).words(rows * DEGREE)
    # An arithmetic shift leaves the top bits as a number from -2^(w-1) up to below 2^(w-1).
    uniform = words.view(np.int64) >> (64 - width)
    return Multiplicand(uniform.reshape(rows, DEGREE), bits=width, norm=norm)


def _check_size(sums: Integers, summed: int, drawn: DiscreteGaussian, *, what: str) -> None:
    _check_squares(float(np.sum(sums * sums)), sums.size, summed, drawn, what=what)


def _check_squares(
    squares: float, count: int, summed: int, drawn: DiscreteGaussian, *, what: str
) -> None:
    """Nothing, if `count` sums of `summed` draws can have squares that add up to `squares`.

    Subgaussian vectors exceed the bound with 2^-60 (Hsu, Kakade and Zhang 2012, Theorem 2.1).
    Numbers that are uniform instead of small exceed it as surely, from a few dozen of them on.
    """
    bound = count + 2 * math.sqrt(count * _SLACK) + 2 * _SLACK
    if squares > bound * summed * drawn.sigma**2:
        raise ProtocolError(
            f"{what} does not decode: a masked input, a share or an answer of the committee is not "
            "what the protocol prescribes"
        )
