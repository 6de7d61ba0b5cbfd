"""A random rotation: it spreads an update evenly over its coordinates, so that a coarse grid does.

Random signs, then a Walsh-Hadamard transform, divided by sqrt(D) (Ailon & Chazelle 2009). It is
orthogonal, so norms stay what they are, and each coordinate of a vector of norm c becomes a sum of
random signs: it exceeds t c / sqrt(D) with probability at most 2 exp(-t^2 / 2) (Hoeffding). The
signs are public and fresh in each round: they hide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from codex_ray.randomness import Stream

BLOCK_BITS = 5
"""Matrices of 32 x 32 stay in the first cache: 15 ms at 2^20 in float64, where 128 x 128 take 20
and butterflies 40."""


def padded(dimension: int) -> int:
    """The smallest power of two that is not below `dimension`."""
    return 1 << max(0, dimension - 1).bit_length()


@lru_cache(maxsize=BLOCK_BITS + 1)
def _hadamard(bits: int) -> torch.Tensor:
    """The Hadamard matrix [2^bits, 2^bits] of signs, by Sylvester's doubling."""
    matrix = torch.ones((1, 1), dtype=torch.float64)
    for _ in range(bits):
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return matrix


def walsh_hadamard(vectors: torch.Tensor) -> torch.Tensor:
    """The Walsh-Hadamard transforms [..., D] of vectors [..., D], float64: D times the inverse.

    H_D is the Kronecker product of small Hadamard matrices. Each turn of the loop transforms the
    lowest bits of the index and moves them to the top, so that after all of them every bit is back
    in its place.
    """
    shape = vectors.shape
    left = shape[-1].bit_length() - 1
    while left > 0:
        bits = min(BLOCK_BITS, left)
        matrix = _hadamard(bits).to(vectors.device)
        vectors = (matrix @ vectors.reshape(*shape[:-1], -1, 1 << bits).mT).reshape(shape)
        left -= bits
    return vectors


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotation of one round, the same for its clients and its server.

    Attributes:
        signs: [D], each +1 / sqrt(D) or -1 / sqrt(D).
    """

    signs: torch.Tensor = field(repr=False)

    @classmethod
    def drawn(cls, stream: Stream, *, dimension: int) -> Rotation:
        """A rotation of vectors [dimension], which it pads with zeros to a power of two, D."""
        width = padded(dimension)
        drawn = np.unpackbits(np.frombuffer(stream.bytes((width + 7) // 8), dtype=np.uint8))
        size = width**-0.5
        return cls(torch.from_numpy(np.where(drawn[:width], size, -size)))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors [..., d], padded and rotated [..., D], float64, on the device they are on."""
        signs = self.signs.to(vectors.device)
        spread = vectors.new_zeros((*vectors.shape[:-1], len(signs)), dtype=torch.float64)
        spread[..., : vectors.shape[-1]] = vectors
        return walsh_hadamard(spread.mul_(signs))

    def inverse(self, rotated: torch.Tensor) -> torch.Tensor:
        """What `forward` had rotated, with its padding [..., D], float64."""
        return walsh_hadamard(rotated).mul_(self.signs.to(rotated.device))
