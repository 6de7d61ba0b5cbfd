"""Clip, then round: what a client does where all that is asked of it is a bounded norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Means, Mechanism, adding
from codex_ray.types import Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def clipped_all(updates: torch.Tensor, norm: float) -> torch.Tensor:
    """The updates [n, d] in float64, each shortened to `norm` if it is longer; zero if not finite.

    Whether a client had a number that is none must not show in the sum. Nothing is read back from
    the device that the updates are on.
    """
    vectors = updates.to(torch.float64, copy=True)
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    factors = (torch.full_like(lengths, norm) / lengths).clamp_(max=1.0).nan_to_num_(nan=1.0)
    factors *= torch.isfinite(lengths)
    # A product with zero would not make a zero of a number that is none.
    return vectors.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(factors[:, None])


def clipped(update: torch.Tensor, norm: float) -> torch.Tensor:
    """The update [d] in float64, shortened to `norm` if it is longer; zero if it is not finite."""
    return clipped_all(update[None], norm)[0]


class ClipAndRound(Mechanism):
    """A mechanism with a `clip_norm` and an `encoding`, whose clients clip and round."""

    if TYPE_CHECKING:  # declared by each mechanism, among its other fields
        clip_norm: float
        encoding: Encoding

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding of updates whose norm is at most clip_norm.

        Raises:
            ConfigError: the cohort is so large that rounding would eat the clip norm.
        """
        return Codec(self.encoding, dimension, summands, self.clip_norm, clip_norm=self.clip_norm)

    @adding
    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates, clipped and rounded: the norm of each summand is at most clip_norm."""
        vectors = clipped_all(updates, codec.allowed_norm)
        return codec.encode_all(vectors, rotation=means.rotation, draws=means.draws)


class GaussianPrice(Mechanism):
    """A mechanism whose release costs a client what its `noise_multiplier` says."""

    if TYPE_CHECKING:  # declared by each mechanism, among its other fields
        noise_multiplier: float

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """One Gaussian release at the noise multiplier, whatever the cohort."""
        from dp_accounting import GaussianDpEvent  # slow to import, and hosts never account

        return GaussianDpEvent(self.noise_multiplier)
