"""Builds that claim more than they keep, each wrong in one way that has really happened.

They are what an audit is tried on: they stand in the place of the sound component in an assembled
experiment, whose events and ledgers they leave as they are. No configuration can name them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import Batch, PoissonBatches
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Model
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.mechanism import Means, Release, State
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_inside import SkellamNoise
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import SeedTree, Stream
from codex_ray.types import GroupSum, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class QuarterNoise(CentralGaussian):
    """Adds a quarter of the noise that its event claims."""

    def release(
        self,
        group: GroupSum,
        *,
        codec: Codec,
        expected: float,
        noise: Stream,
        rotation: Rotation | None = None,
        state: State = (),
    ) -> Release:
        """What the sound mechanism would release at a quarter of the noise multiplier."""
        quieter = CentralGaussian(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier / 4,
            encoding=self.encoding,
        )
        return quieter.release(
            group, codec=codec, expected=expected, noise=noise, rotation=rotation, state=state
        )


class NoClip(CentralGaussian):
    """Takes every update as long as it comes."""

    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates, rounded and not clipped."""
        return codec.encode_all(updates.double(), rotation=means.rotation, draws=means.draws)


class SameSeedDpSgd(DpSgd):
    """Gives its generator the same seed at every client and in every round."""

    forced: int = 0

    def counted(
        self, model: Model, params: torch.Tensor, records: Records, *, streams: SeedTree
    ) -> tuple[torch.Tensor, Clipping]:
        """The update of the sound trainer on streams that know neither client nor round."""
        return super().counted(model, params, records, streams=_forced(self.forced))


class SameSeedNoise(SkellamNoise):
    """Gives the generator of each client's share of the noise the same seed in every round."""

    forced: int = 0

    def noised(self, words: Residues, codec: Codec, *, noise: Stream) -> Residues:
        """The words with a share that is everybody's."""
        return super().noised(words, codec, noise=_forced(self.forced).stream("noise share"))


class ForgottenDropouts(SkellamNoise):
    """Shares its noise among the whole cohort, and counts the shares of those who dropped too.

    A sum of fewer is opened all the same, and nobody makes up for the noise that left with the
    others.
    """

    def codec(
        self,
        *,
        dimension: int,
        summands: int,
        expected: float | None = None,
        bringers: int | None = None,
    ) -> Codec:
        """The grid for shares that only suffice if all of the cohort survive."""
        whole = SkellamNoise(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            assumed_dropout=0,
            assumed_corrupt=self.assumed_corrupt,
            encoding=self.encoding,
        )
        return whole.codec(
            dimension=dimension, summands=summands, expected=expected, bringers=bringers
        )

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """What everybody's noise would leave to see, whoever survived."""
        everybody = None if expected is None else int(expected)
        return super().event(codec=codec, expected=expected, survivors=everybody)


class ShuffledAsPoisson(PoissonBatches):
    """Deals every record out once an epoch, in batches of the size that Poisson's would have."""

    def draw(self, records: int, stream: Stream) -> list[Batch]:
        """The first `steps` batches of as many epochs as these take."""
        if records == 0:
            return super().draw(records, stream)
        size = max(1, round(self.sampling_rate * records))
        batches: list[Batch] = []
        while len(batches) < self.steps:
            order = stream.permutation(records)
            batches += [np.sort(order[at : at + size]) for at in range(0, records, size)]
        return batches[: self.steps]


def _forced(seed: int) -> SeedTree:
    return SeedTree(hashlib.sha256(f"forced seed {seed}".encode()).digest())
