"""Gaussian noise for a whole step in one pass: the draws of `Stream.normal`, several times faster.

The same bytes of the stream become the same uniforms, and by Box and Muller (1958) the same normals
but for the rounding of their last float32 bits. Logarithms are taken of doubles, so that the tails
end where theirs do, at 8.6 standard deviations. Sines are taken in float32, of angles that are
first brought, exactly, to where a small angle has a small sine: no draw loses more than its last
bits.
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
PIECE: Final = 8192
"""Words read at a time: larger pieces are new memory from the system every time."""
ONE: Final = np.uint64(0x3FF0000000000000)
"""The bits of 1.0: put before 52 random ones they make a number from 1 to 2."""
SHIFT: Final = np.uint64(12)
HALF_STEP: Final = 2.0**-53


@dataclass(frozen=True)
class _Block:
    """Pairs that go through together: views of the arrays that hold them all, and room."""

    bits: npt.NDArray[np.uint64]  # [2, n] of radii, and of angles
    uniform: torch.Tensor  # the same memory, as doubles
    centred: torch.Tensor
    angle: torch.Tensor
    radius: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor

    def transform(self, scale: float) -> None:
        """Pairs of normals from pairs of words: cosine and sine of 2 pi u, times a radius.

        With v = u - 1/2 and t = 1/4 - |v|, which doubles hold exactly, cos 2 pi u = -sin 2 pi t and
        sin 2 pi u = -sin 2 pi (1/4 - |t|), with the sign of v.
        """
        np.right_shift(self.bits, SHIFT, out=self.bits)
        np.bitwise_or(self.bits, ONE, out=self.bits)
        self.uniform.sub_(1 - HALF_STEP)
        self.centred.sub_(1 - HALF_STEP).sub_(0.5)
        self.radius.copy_(self.uniform.log_()).mul_(-2 * scale * scale).sqrt_()
        torch.abs(self.centred, out=self.angle)
        self.cosine.copy_(torch.sub(0.25, self.angle, out=self.angle))
        torch.sub(0.25, self.angle.abs_(), out=self.angle).copysign_(self.centred)
        self.sine.copy_(self.angle)
        self.cosine.mul_(-2 * math.pi).sin_().mul_(self.radius)
        self.sine.mul_(-2 * math.pi).sin_().mul_(self.radius)


class StepNoise:
    """Draws the noise of one step of a model, parameter by parameter as the reference does."""

    def __init__(self, sizes: Sequence[int]) -> None:
        halves = [(size + 1) // 2 for size in sizes]
        pairs = sum(halves)
        self._words = np.empty(2 * pairs, dtype=np.uint64)
        self._bits = np.empty((2, pairs), dtype=np.uint64)
        cosine, sine = torch.empty((2, pairs), dtype=torch.float32)
        self._blocks = list(_blocks(self._bits, cosine, sine))
        # Of each parameter the stream holds the radii first, and the noise the cosines.
        self._radii, self._angles = [], []
        self._normals: list[torch.Tensor] = []
        place = 0
        for size, half in zip(sizes, halves, strict=True):
            self._radii.append(self._words[2 * place : 2 * place + half])
            self._angles.append(self._words[2 * place + half : 2 * (place + half)])
            self._normals.append(cosine[place : place + half])
            self._normals.append(sine[place : place + size - half])
            place += half

    def draw(self, stream: Stream, scale: float, *, out: torch.Tensor) -> None:
        """Puts `scale` times the next d standard normals of the stream into `out` [d], float32.

        Equal, but for rounding, to the concatenation of `stream.normal(size)` for each size.
        """
        words = self._words
        for at in range(0, len(words), PIECE):
            piece = words[at : at + PIECE]
            piece[:] = np.frombuffer(stream.bytes(piece.nbytes), dtype="<u8")
        np.concatenate(self._radii, out=self._bits[0])
        np.concatenate(self._angles, out=self._bits[1])
        for block in self._blocks:
            block.transform(scale)
        torch.cat(self._normals, out=out)


def _blocks(
    bits: npt.NDArray[np.uint64], cosine: torch.Tensor, sine: torch.Tensor
) -> Iterator[_Block]:
    """All pairs, so many at a time, in room that each block uses again."""
    pairs = len(cosine)
    angle = torch.empty(min(BLOCK, pairs), dtype=torch.float64)
    radius = torch.empty(min(BLOCK, pairs), dtype=torch.float32)
    for at in range(0, pairs, BLOCK):
        block, count = slice(at, at + BLOCK), min(BLOCK, pairs - at)
        uniform, centred = torch.from_numpy(bits[:, block].view(np.float64))
        halves = cosine[block], sine[block]
        yield _Block(bits[:, block], uniform, centred, angle[:count], radius[:count], *halves)
