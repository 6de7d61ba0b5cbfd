"""Each client adds all the noise that protects it: nobody else is trusted with anything.

The server may look at every single update, so no secure sum is needed, and no sampling counts. The
price is that the noise of n clients adds up: it is sqrt(n) times that of central noise at the same
epsilon. What follows the noise, rounding and cutting to the grid, is post-processing.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from pydantic import Field

from codex_ray.privacy.clip_and_round import GaussianPrice, clipped_all
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Means, Release, State, adding, signal_to_noise
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Stream
from codex_ray.types import GroupSum, Residues

REACH: Final = 8.7
"""A coordinate is cut this many standard deviations beyond the clip norm; a drawn normal ends at
8.6 (`randomness.Stream.normal`), so nothing ever is."""


class LocalGaussian(GaussianPrice):
    """Clip the update, add Gaussian noise to it, and only then let it go.

    Any two updates of norm clip_norm are up to 2 clip_norm apart, and local privacy is about any
    two: its ledger accounts under replace-one.
    """

    kind: Literal["local_gaussian"] = "local_gaussian"
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one client's update.")
    noise_multiplier: NoiseMultiplier = Field(
        description="Standard deviation of each client's own noise, in units of clip_norm.",
    )
    encoding: Encoding = Field(default=Encoding(), description="How an update becomes words.")

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding of updates with their noise; no sum of them wraps."""
        bound = self.clip_norm * (1 + REACH * self.noise_multiplier)
        return Codec(self.encoding, dimension, summands, bound)

    @adding
    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates, clipped, noised and rounded."""
        if means.noise is None:
            raise ValueError("the client brings noise: give its own secret stream of this round")
        drawn = np.empty(updates.shape)
        for row in range(len(updates)):
            drawn[row] = means.noise(row).normal(updates.shape[1])
        added = torch.from_numpy(drawn).to(updates.device)
        noised = clipped_all(updates, self.clip_norm)
        noised += self.noise_multiplier * self.clip_norm * added
        return codec.encode_all(noised, rotation=means.rotation, draws=means.draws)

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
        """The mean over the clients that are in the sum, which are known; zero without any."""
        count = max(1, len(group.members))
        update = codec.decode(group.total, rotation=rotation) / count
        deviation = self.noise_multiplier * self.clip_norm / count**0.5
        return Release(update, privacy={"signal_to_noise": signal_to_noise(update, deviation)})
