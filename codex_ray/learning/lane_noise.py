"""Gaussian noise for a whole step in one pass: the draws of `Stream.normal`, several times faster.

The same words of the stream become the same uniforms, and by Box and Muller (1958) the same normals
but for the rounding of float32. Logarithms are taken of doubles, so that the tails end where theirs
do, at 8.6 standard deviations. Angles are float32 from the first: a normal is off by some last bits
of the radius that it shares with its pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.randomness import Stream

BLOCK: Final = 1 << 15
"""Pairs at a time, so that every pass but the first finds them in the cache."""
ONE: Final = np.uint64(0x3FF0000000000000)
"""The bits of 1.0: put before 52 random ones they make a number from 1 to 2."""
SHIFT: Final = np.uint64(12)
HALF_STEP: Final = 2.0**-53
TURN: Final = np.float32(2 * math.pi / 2**32)
"""The angle of one unit of 32 bits, of which a whole turn is 2^32."""

WIDE: Final = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether numpy has a logarithm for this processor that takes a third of the time of torch's. Where
it has none it takes longer, and rounds to the same float32."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Part:
    """One parameter: views of its words and of its pairs, and where its noise goes.

    Of each parameter the stream holds the radii first, and the noise the cosines.
    """

    words: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]
    bits: npt.NDArray[np.uint64]
    angles: Floats
    cosines: tuple[Floats, Floats]  # with their radii
    sines: tuple[Floats, Floats]
    places: tuple[slice, slice]


@dataclass(frozen=True)
class _Block:
    """Pairs that go through together: views of the arrays that hold them all."""

    bits: npt.NDArray[np.uint64]
    radius: Floats
    cosine: Floats  # holds the angle at first
    sine: Floats

    def transform(self, scale: float) -> None:
        """`scale` times the radius, and cosine and sine, from the words.

        An angle is taken as a signed number of 32 bits: whole turns are nothing to its sine.
        """
        np.bitwise_or(self.bits, ONE, out=self.bits)
        uniform = self.bits.view(np.float64)
        np.subtract(uniform, 1 - HALF_STEP, out=uniform)
        _logarithms(uniform)
        np.copyto(self.radius, uniform, casting="same_kind")
        np.multiply(self.radius, np.float32(-2 * scale * scale), out=self.radius)
        np.sqrt(self.radius, out=self.radius)
        np.multiply(self.cosine, TURN, out=self.cosine)
        np.sin(self.cosine, out=self.sine)
        np.cos(self.cosine, out=self.cosine)


def _logarithms(values: npt.NDArray[np.float64]) -> None:
    """Of `values`, in place, by whichever library is faster here."""
    if WIDE:
        np.log(values, out=values)
    else:
        torch.from_numpy(values).log_()


class StepNoise:
    """Draws the noise of one step of a model, parameter by parameter as the reference does."""

    def __init__(self, sizes: Sequence[int]) -> None:
        pairs = sum((size + 1) // 2 for size in sizes)
        self._words = np.empty(2 * pairs, dtype="<u8")
        bits = np.empty(pairs, dtype=np.uint64)
        radius, cosine, sine = np.empty((3, pairs), dtype=np.float32)
        self._parts = list(_parts(sizes, self._words, bits, (radius, cosine, sine)))
        self._blocks = [
            _Block(bits[some], radius[some], cosine[some], sine[some])
            for some in (slice(at, at + BLOCK) for at in range(0, pairs, BLOCK))
        ]

    def draw(self, stream: Stream, scale: float, *, out: torch.Tensor) -> None:
        """Puts `scale` times the next d standard normals of the stream into `out` [d], float32.

        Equal, but for rounding, to the concatenation of `stream.normal(size)` for each size.
        """
        stream.fill(self._words)
        for part in self._parts:
            radii, angles = part.words
            np.right_shift(radii, SHIFT, out=part.bits)
            np.copyto(part.angles, angles, casting="unsafe")
        for block in self._blocks:
            block.transform(scale)
        into = out.numpy()
        for part in self._parts:
            first, second = part.places
            np.multiply(*part.cosines, out=into[first])
            np.multiply(*part.sines, out=into[second])


def _parts(
    sizes: Sequence[int],
    words: npt.NDArray[np.uint64],
    bits: npt.NDArray[np.uint64],
    pairs: tuple[Floats, Floats, Floats],
) -> Iterator[_Part]:
    """Where each parameter's words lie, and where its pairs and its noise go."""
    radius, cosine, sine = pairs
    at = place = 0
    for size in sizes:
        half = (size + 1) // 2
        every, all_but_odd = slice(at, at + half), slice(at, at + size - half)
        own = words[2 * at : 2 * (at + half)]
        yield _Part(
            words=(own[:half], own[half:].view(np.int32)[1::2]),  # the upper, words being "<u8"
            bits=bits[every],
            angles=cosine[every],
            cosines=(radius[every], cosine[every]),
            sines=(radius[all_but_odd], sine[all_but_odd]),
            places=(slice(place, place + half), slice(place + half, place + size)),
        )
        at, place = at + half, place + size
