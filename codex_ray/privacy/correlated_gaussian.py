"""Central noise that later rounds take back: for cohorts that are known, so that nothing amplifies.

Where the cohort of a round is hidden, each round can be charged little, and independent noise is
fine. Where it is not, a client pays for each of its rounds in full, and the noise of all rounds
adds up in the model. Correlated noise costs a client as much and adds up to far less.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from codex_ray.privacy.banded import Banded
from codex_ray.privacy.blt import Buffered
from codex_ray.privacy.clip_and_round import ClipAndRound, GaussianPrice
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.correlated import stretch
from codex_ray.privacy.correlated_noise import CorrelatedNoise, CorrelatedStream
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Release, State, signal_to_noise
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.rotation import Rotation
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import SeedTree, Stream
from codex_ray.types import GroupSum


class CorrelatedGaussian(ClipAndRound, GaussianPrice):
    """Clip each update, add a row of C^-1 z to the sum (Choquette-Choo et al. 2023, algorithm 1).

    `noise_multiplier` is what one participation of a client costs, as of a single Gaussian: the
    noise is made larger than that by as much as the correlation asks for (`correlated.stretch`), so
    the ledger charges each round that a client is in, as with independent noise. That holds for
    clients that keep to the schedule of the sampler, and is the claim U3. What is kept of past
    noise never leaves the process, so there is no public state.
    """

    kind: Literal["correlated_gaussian"] = "correlated_gaussian"
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one client's update.")
    noise_multiplier: NoiseMultiplier = Field(
        description="Noise of a release against one client that is in it, as of a single Gaussian."
    )
    correlation: Annotated[Banded | Buffered, Field(discriminator="kind")] = Field(
        default=Buffered(), description="How the noise of a round depends on that of earlier ones."
    )
    encoding: Encoding = Field(default=Encoding(), description="How an update becomes words.")

    def noise(
        self, schedule: Schedule, *, secret: SeedTree, dimension: int, first: int | None = 0
    ) -> CorrelatedNoise:
        """The noise of a run on this schedule, from which `release` takes that of its round.

        `first` is the round at which it begins: 0, but for a run whose earlier noise is lost; None
        for the first round that is asked for.

        Raises:
            ConfigError: the correlation reaches further than the schedule allows.
        """
        fitted = self.correlation.fit(schedule)
        return CorrelatedNoise(fitted, schedule, secret=secret, dimension=dimension, first=first)

    def stretch(self, schedule: Schedule) -> float:
        """How much larger its fresh noise is than independent noise of the same price."""
        return stretch(self.correlation.fit(schedule).column(schedule.rounds), schedule)

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
        """(sum + noise_multiplier clip_norm y) / expected, with y the round's correlated noise.

        Raises:
            ValueError: `noise` is not a stream of `self.noise(...)`.
        """
        if not isinstance(noise, CorrelatedStream):
            raise ValueError("correlated noise is of a whole run: give noise(...).stream(round)")
        total = codec.decode(group.total, rotation=rotation)
        scale = self.noise_multiplier * self.clip_norm
        added = torch.from_numpy(noise.normal(len(total)))
        update = (total + scale * added) / expected
        told = {"signal_to_noise": signal_to_noise(update, scale * noise.deviation / expected)}
        return Release(update, privacy=told)
