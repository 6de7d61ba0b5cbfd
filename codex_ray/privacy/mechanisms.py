"""Client-level mechanisms whose noise, if there is any, the server adds to the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.privacy.clip_and_round import ClipAndRound
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import (
    Fact,
    Means,
    Mechanism,
    Release,
    State,
    adding,
    signal_to_noise,
)
from codex_ray.privacy.noise_cohort import NoiseCohort
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.passengers import Passenger, Range, Told
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Stream
from codex_ray.types import Component, GroupSum, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class Weights(Component):
    """What each client counts for in the mean."""

    by: Literal["uniform", "records"] = Field(
        default="uniform", description="Every client alike, or by the records it trained on."
    )
    largest: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        description="Largest weight; a client with more records counts for this many.",
    )

    @model_validator(mode="after")
    def _declared(self) -> Weights:
        if (self.by == "records") != (self.largest is not None):
            raise ConfigError(
                "federation.mechanism.weights.largest: give it with by: records, and with nothing "
                "else (weights are summed in words that are sized for it)"
            )
        return self


class Metrics(Component):
    """Which figures of the clients' own records are averaged over the cohort in each round."""

    train_loss: Range | None = Field(
        default=None, description="Mean loss before local training: its declared range."
    )


class NoMechanism(Mechanism):
    """Publishes the plain mean of the survivors: no client-level claim.

    The right mechanism when the trainer already protects every record (DP-SGD inside the client):
    what happens to its update afterwards, this mean included, is post-processing. Weights and
    metrics are not: they are exact figures of the records themselves.

    With weights the mean is sum(w x) / sum(w). A client encodes (w / largest) x, on the same grid
    as without weights, so the mean's rounding error grows by largest / (mean weight): declare a
    `largest` that is near the truth.
    """

    kind: Literal["none"] = "none"
    bound: float = Field(
        default=8.0,
        gt=0,
        description="Largest absolute coordinate of an update; larger ones are cut to it.",
    )
    encoding: Encoding = Field(default=Encoding(), description="How an update becomes words.")
    weights: Weights = Field(default=Weights(), description="What a client counts for.")
    metrics: Metrics = Field(default=Metrics(), description="What is averaged beside the updates.")

    @property
    def asks(self) -> frozenset[Fact]:
        """The number of records for weights, the loss where it is averaged."""
        found: set[Fact] = set() if self.weights.largest is None else {"records"}
        return frozenset(found if self.metrics.train_loss is None else found | {"train_loss"})

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding over [-bound, bound], with the weight and the loss behind the update."""
        aboard: list[Passenger] = []
        if self.weights.largest is not None:
            aboard.append(Passenger("weight", self.weights.largest))
        if self.metrics.train_loss is not None:
            aboard.append(Passenger("train_loss", self.metrics.train_loss.steps))
            aboard.append(Passenger("train_loss_count", 1))
        return Codec(self.encoding, dimension, summands, self.bound, aboard=tuple(aboard))

    @adding
    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates, cut to the bound, weighted and rounded, and what the clients tell."""
        if not self.asks:
            return codec.encode_all(updates, rotation=means.rotation, draws=means.draws)
        values = []
        for told in (means.told or [None])[: len(updates)]:
            if told is None:
                raise ValueError(f"the mechanism asks for {sorted(self.asks)}: tell them")
            values.append(self._values(told))
        if self.weights.largest is not None:
            shares = torch.tensor(
                [each["weight"] / self.weights.largest for each in values], dtype=torch.float64
            )
            cut = torch.nan_to_num(updates.double(), nan=0.0).clamp_(-self.bound, self.bound)
            updates = cut.mul_(shares.to(cut.device)[:, None])
        return codec.encode_all(updates, rotation=means.rotation, draws=means.draws, values=values)

    def _values(self, told: Told) -> dict[str, int]:
        """What rides behind one client's update, by passenger."""
        values = {}
        if self.weights.largest is not None:
            values["weight"] = min(told.records, self.weights.largest)
        declared, loss = self.metrics.train_loss, told.train_loss
        if declared is not None:
            values["train_loss"] = 0 if loss is None else declared.step_of(loss)
            values["train_loss_count"] = int(loss is not None)
        return values

    def sent_norm(self, summand: Residues, codec: Codec, *, state: State = ()) -> float:
        """The norm of the update before it was weighted; 0 where its weight is 0."""
        norm = codec.norm(summand)
        if self.weights.largest is None:
            return norm
        return norm * self.weights.largest / max(1, codec.side(summand)["weight"])

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
        """The mean over the clients that are in the sum; zero when there are none."""
        total, side = codec.decode(group.total, rotation=rotation), codec.side(group.total)
        metrics = {}
        if self.metrics.train_loss is not None and side["train_loss_count"]:
            metrics["train_loss"] = self.metrics.train_loss.mean(
                side["train_loss"], side["train_loss_count"]
            )
        if self.weights.largest is None:
            return Release(total / max(1, len(group.members)), metrics)
        return Release(total * (self.weights.largest / max(1, side["weight"])), metrics)

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """No client-level claim."""
        return None


class CentralGaussian(ClipAndRound):
    """Clip each update, add Gaussian noise to the sum at release (McMahan et al. 2018, alg. 1).

    The sum is divided by the public expected cohort size, never by the real one, which depends on
    who is there: so every client counts for one, and no figures of its own ride with its update.
    Rounding can add to a norm, so a client clips to `clip_norm` less that much: the sensitivity of
    the sum under add-or-remove-one-client is `clip_norm` exactly. A rotation keeps norms, and is
    undone before the noise is added.
    """

    kind: Literal["gaussian"] = "gaussian"
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one client's update.")
    noise_multiplier: NoiseMultiplier = Field(
        description="Standard deviation of the noise on the sum, in units of clip_norm."
    )
    noise_cohort: NoiseCohort | None = Field(
        default=None,
        description="A larger run: noise_multiplier is its own, and the mean has as much noise as "
        "it would have there.",
    )
    encoding: Encoding = Field(default=Encoding(), description="How an update becomes words.")

    def literal(self, expected: float) -> float:
        """The noise multiplier that the sum over a cohort of `expected` clients really has."""
        if self.noise_cohort is None:
            return self.noise_multiplier
        return self.noise_multiplier * expected / self.noise_cohort.cohort

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
        """(sum + N(0, (literal noise multiplier x clip_norm)^2)) / expected."""
        total = codec.decode(group.total, rotation=rotation)
        added = torch.from_numpy(noise.normal(len(total)))
        deviation = self.literal(expected) * self.clip_norm
        update = (total + deviation * added) / expected
        told = {"signal_to_noise": signal_to_noise(update, deviation / expected)}
        return Release(update, privacy=told)

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """One Gaussian release at the noise multiplier that this run really has."""
        from dp_accounting import GaussianDpEvent  # slow to import, and hosts never account

        if expected is None and self.noise_cohort is not None:
            raise ValueError("with a noise_cohort the event depends on the expected cohort")
        return GaussianDpEvent(self.literal(expected or 1.0))
