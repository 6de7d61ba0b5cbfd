"""A clip norm that follows a quantile of the clients' norms, at a price that the event names.

Beside its update each client adds one bit to the sum, whether its update was within the clip norm.
The noised fraction of ones moves the clip norm of the next round up or down by a factor (Andrew,
Thakkar, McMahan & Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping",
algorithm 1). An update is encoded in units of the round's clip norm, so the grid never changes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.privacy.clip_and_round import GaussianPrice, clipped_all
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Means, Release, State, adding, signal_to_noise
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.passengers import Passenger
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Stream
from codex_ray.types import GroupSum, Residues

BIT_SENSITIVITY = 0.5
"""A client moves the sum of (bit - 1/2) by one half, whichever bit it has. Of the sum of the bits
themselves it would be 1: charging that as one half reports an epsilon that is too small."""


class AdaptiveGaussian(GaussianPrice):
    """Central Gaussian noise under a clip norm that the rounds learn.

    `noise_multiplier` is that of the whole release, update and bit together: the noise on the
    update is a little larger, z_update = (z^-2 - (2 count_noise)^-2)^-1/2 (there, theorem 1).
    """

    kind: Literal["adaptive_gaussian"] = "adaptive_gaussian"
    noise_multiplier: NoiseMultiplier = Field(
        description="Noise of a release against one client, as of a single Gaussian."
    )
    initial_clip: float = Field(default=0.1, gt=0, description="Clip norm of the first round.")
    quantile: float = Field(
        default=0.5, gt=0, lt=1, description="Fraction of updates that should not be clipped."
    )
    learning_rate: float = Field(
        default=0.2,
        ge=0,
        description="How fast the clip norm follows, in its logarithm; 0 keeps it, and only "
        "estimates which fraction is clipped.",
    )
    count_noise: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of the noise on the number of unclipped clients; left out, "
        "a twentieth of the expected cohort.",
    )
    smallest_clip: float = Field(default=1e-6, gt=0, description="The clip norm stays above this.")
    largest_clip: float = Field(default=1e6, gt=0, description="The clip norm stays below this.")
    encoding: Encoding = Field(default=Encoding(), description="How an update becomes words.")

    @model_validator(mode="after")
    def _in_order(self) -> AdaptiveGaussian:
        if not self.smallest_clip <= self.initial_clip <= self.largest_clip:
            raise ConfigError(
                f"federation.mechanism.initial_clip is {self.initial_clip:g}, which is not from "
                f"smallest_clip ({self.smallest_clip:g}) to largest_clip ({self.largest_clip:g})"
            )
        return self

    def init(self) -> State:
        """The first clip norm."""
        return (float(np.float32(self.initial_clip)),)

    def bit_noise(self, expected: float) -> float:
        """The standard deviation of the noise on the number of unclipped clients."""
        return expected / 20 if self.count_noise is None else self.count_noise

    def update_noise(self, expected: float) -> float:
        """The noise multiplier of the update alone, so that both releases together have theirs.

        Raises:
            ConfigError: the noise on the count leaves nothing of the budget to the update.
        """
        bits = self.bit_noise(expected) / BIT_SENSITIVITY
        if bits <= self.noise_multiplier:
            raise ConfigError(
                f"federation.mechanism.count_noise is {self.bit_noise(expected):g}, with which the "
                f"count of unclipped clients alone costs more than noise_multiplier "
                f"{self.noise_multiplier:g} allows: set it above "
                f"{BIT_SENSITIVITY * self.noise_multiplier:g}"
            )
        return float((self.noise_multiplier**-2 - bits**-2) ** -0.5)

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding of vectors of norm at most 1, with the bit behind them.

        Raises:
            ConfigError: the cohort is so large that rounding would eat the clip norm, or the noise
                on the count is too small.
        """
        self.update_noise(summands if expected is None else expected)
        bit = Passenger("unclipped", 1)
        return Codec(self.encoding, dimension, summands, 1.0, clip_norm=1.0, aboard=(bit,))

    @adding
    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates in units of the clip norm, clipped to 1 and rounded, and their bits."""
        clip_norm = self._clip_norm(means.state)
        lengths = torch.linalg.vector_norm(updates.double(), dim=1)
        within = (lengths <= clip_norm).cpu().tolist()  # false for NaN
        units = clipped_all(updates.double() / clip_norm, codec.allowed_norm)
        bits = [{"unclipped": int(bit)} for bit in within]
        return codec.encode_all(units, rotation=means.rotation, draws=means.draws, values=bits)

    def sent_norm(self, summand: Residues, codec: Codec, *, state: State = ()) -> float:
        """At most the round's clip norm."""
        return codec.norm(summand) * self._clip_norm(state)

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
        """The noised mean in the units of the update, and the clip norm of the next round."""
        clip_norm = self._clip_norm(state)
        total = codec.decode(group.total, rotation=rotation)
        added = torch.from_numpy(noise.normal(len(total)))
        centred = codec.side(group.total)["unclipped"] - BIT_SENSITIVITY * len(group.members)
        noised = centred + self.bit_noise(expected) * float(noise.normal(1)[0])
        fraction = noised / expected + BIT_SENSITIVITY
        following = clip_norm * math.exp(-self.learning_rate * (fraction - self.quantile))
        following = min(max(following, self.smallest_clip), self.largest_clip)
        deviation = self.update_noise(expected) * clip_norm / expected
        update = total * (clip_norm / expected) + deviation * added
        told = {
            "clip_norm": clip_norm,
            "clipped_fraction": 1 - fraction,
            "signal_to_noise": signal_to_noise(update, deviation),
        }
        return Release(update, privacy=told, state=(float(np.float32(following)),))

    def _clip_norm(self, state: State) -> float:
        return state[0] if state else self.init()[0]
