"""Products in Z[X]/(X^2048 + 1) by floating-point FFT, rounded to integers that are exact.

A long factor (random, as wide as the modulus) meets many short ones (keys), so the spectrum of the
long one is computed once and kept. With X^1024 = i the ring is C[X]/(X^1024 - i): a polynomial of
2048 real coefficients is one of 1024 complex ones, and turning the j-th of them by exp(i pi j/2048)
makes the product cyclic. One complex FFT of 1024 serves a polynomial, with no zero padding.

Error bound. Let a, s be the factors, |.| the Euclidean norm and eps = 2^-53. A cyclic product of
length 2^n by FFT is off by less than

    |a| |s| ((1 + eps)^3n (1 + eps sqrt 5)^(3n+1) (1 + beta)^3n - 1)

in every coefficient (Percival 2003, Theorem 5.1, with the sqrt 5 of Brent, Percival and Zimmermann
2007), where beta is the relative error of the roots of unity. Turning multiplies by three more
roots. numpy's pocketfft takes roots from the product of two rounded ones, so beta < 4 eps, and for
n = 10 the bound is below 240 eps |a| |s|. (It is stated for radix 2. The radices 4 and 8 of
pocketfft do as many additions on the way of a value, and fewer multiplications.) A coefficient of a
is at most 2^(w-1) in absolute value, so |a| <= 2^(w-1) sqrt 2048. Where that would give 3/4, the
long factor is cut into two limbs of half as many bits. So every product here is off by less than
3/4, which is proven, and found within 1/4 of an integer, which is checked, coefficient by
coefficient: it cannot be another integer than the right one. A broken FFT gives an error and not a
wrong sum.

Measured on one core for 489 inverse transforms: numpy 3.0-3.4 ms, scipy 3.0-3.8, torch (MKL)
3.0-3.3. None is ahead of numpy, which is here anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError

DEGREE = 2048

LARGEST_MODULUS_BITS = 48
"""Products are right modulo 2^51: three bits more than any session asks for."""

Integers = npt.NDArray[np.int64]

_HALF = DEGREE // 2
_BLOCK = 32
"""Rows worked on together: 512 KB of complex numbers, which the second-level cache holds."""

_FARTHEST = 0.25
"""How far off an integer a product may be found."""
_CERTAIN = 1 - _FARTHEST
"""Who is off by less, and not farther than that from an integer, is next to the right one."""
_ERROR_UNITS = 240 * 2.0**-53
_SHIFTED = 1.5 * 2.0**52
"""Doubles near this number are the integers: adding it rounds, and the low bits are the result."""
_RANGE = 2.0**51

_TURN = np.exp(1j * np.pi / DEGREE * np.arange(_HALF))
_TURN_BACK = _TURN.conj() / _HALF  # with the factor of the inverse transform, a power of two


def error_bound(bits: int, norm: float) -> float:
    """The largest error of a product's coefficient before it is rounded.

    Args:
        bits: the long factor's coefficients are from -2^(bits-1) up to below 2^(bits-1).
        norm: Euclidean norm of the short factor.
    """
    return _ERROR_UNITS * math.ldexp(math.sqrt(DEGREE), bits - 1) * norm


class Multiplicand:
    """Many polynomials, ready to be multiplied by short ones.

    Polynomials are stored with the coefficients of X^j and X^(j + 1024) side by side, as words 2j
    and 2j + 1: read as complex numbers they are the ring's elements.
    """

    def __init__(self, rows: Integers, *, bits: int, norm: float) -> None:
        """Keep the spectra of `rows` [polynomials, 2048].

        Args:
            rows: coefficients from -2^(bits-1) up to below 2^(bits-1).
            bits: width of the modulus, and so of the coefficients.
            norm: the largest Euclidean norm of a short factor that will come.

        Raises:
            ProtocolError: two limbs are not enough for so long factors.
        """
        if bits > LARGEST_MODULUS_BITS:
            raise ProtocolError(f"a modulus of {bits} bits, {LARGEST_MODULUS_BITS} at most")
        self._limb_bits = bits if error_bound(bits, norm) < _CERTAIN else (bits + 1) // 2 + 1
        if error_bound(self._limb_bits, norm) >= _CERTAIN:
            raise ProtocolError(f"no exact product of {bits} bits with factors of norm {norm:.3g}")
        self._norm = norm
        self._spectra = [_spectrum(limb) for limb in self._limbs(rows, bits)]

    @property
    def limbs(self) -> int:
        """Into how many parts the rows had to be cut."""
        return len(self._spectra)

    def products(self, short: Integers) -> Iterator[npt.NDArray[np.uint64]]:
        """The products of all rows with `short` [2048], a block of rows at a time, flat.

        They are right modulo 2^48; the bits above are not meant. A block is overwritten by the
        next.

        Raises:
            ProtocolError: `short` is longer than announced, or a coefficient came out between two
                integers: the FFT does not keep its bound.
        """
        norm = math.sqrt(float(np.sum(short * short)))
        reach = math.ldexp(float(np.sum(np.abs(short))), self._limb_bits - 1)
        if norm > self._norm or reach >= _RANGE:
            raise ProtocolError(f"a factor of norm {norm:.3g}, at most {self._norm:.3g} can come")
        spectrum = _spectrum(short[None])
        space = _SPARE.pop() if _SPARE else _Space()
        try:
            for start in range(0, len(self._spectra[0]), _BLOCK):
                rows = slice(start, start + _BLOCK)
                words = space.product(self._spectra[0][rows], spectrum)
                if self.limbs == 2:
                    low = words.copy()
                    words = space.product(self._spectra[1][rows], spectrum)
                    np.left_shift(words, self._limb_bits, out=words)
                    np.add(words, low, out=words)
                yield words
        finally:
            _SPARE.append(space)

    def _limbs(self, rows: Integers, bits: int) -> list[Integers]:
        if self._limb_bits == bits:
            return [rows]
        half = 1 << (self._limb_bits - 1)
        low = ((rows + half) & (2 * half - 1)) - half
        return [low, (rows - low) >> self._limb_bits]


def _spectrum(rows: Integers) -> npt.NDArray[np.complex128]:
    """The values of `rows` [polynomials, 2048] at the odd roots of unity, [polynomials, 1024]."""
    turned = rows.astype(np.float64).view(np.complex128)
    np.multiply(turned, _TURN, out=turned)
    return np.fft.fft(turned, axis=1, out=turned)


class _Space:
    """Memory to multiply in, used again: at d = 10^5 fresh pages cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._work = np.empty((_BLOCK, _HALF), dtype=np.complex128)
        self._rounded = np.empty(_BLOCK * DEGREE)
        self._apart = np.empty(_BLOCK * DEGREE)

    def product(
        self, rows: npt.NDArray[np.complex128], spectrum: npt.NDArray[np.complex128]
    ) -> npt.NDArray[np.uint64]:
        """The products [rows x 2048] of up to a block of rows, from spectra, modulo 2^51."""
        size = rows.shape[0] * DEGREE
        real = _inverse(rows, spectrum, out=self._work[: rows.shape[0]])
        return _round(real, self._rounded[:size], self._apart[:size])


_SPARE: list[_Space] = []
"""Not in use. Whoever multiplies takes one out, so two products never share one."""


def _inverse(
    rows: npt.NDArray[np.complex128],
    spectrum: npt.NDArray[np.complex128],
    *,
    out: npt.NDArray[np.complex128],
) -> npt.NDArray[np.float64]:
    """The coefficients, flat and not yet rounded, of the products of two spectra."""
    np.multiply(rows, spectrum, out=out)
    np.fft.ifft(out, axis=1, norm="forward", out=out)
    np.multiply(out, _TURN_BACK, out=out)
    return out.reshape(-1).view(np.float64)


def _round(
    real: npt.NDArray[np.float64],
    rounded: npt.NDArray[np.float64],
    apart: npt.NDArray[np.float64],
) -> npt.NDArray[np.uint64]:
    """The nearest integers, modulo 2^51 in the low bits; `rounded` and `apart` are overwritten."""
    np.add(real, _SHIFTED, out=rounded)
    np.subtract(rounded, _SHIFTED, out=apart)
    np.subtract(real, apart, out=apart)
    farthest = max(float(apart.max()), -float(apart.min()))
    if not farthest < _FARTHEST:  # Not-a-number must not pass either.
        raise ProtocolError(
            f"a ring product is {farthest:.2g} off an integer, not within {_FARTHEST}: the FFT of "
            "this numpy is less exact than it should be"
        )
    return rounded.view(np.uint64)
