"""Client-level mechanisms: from update to summand, from sum to release, and what that costs.

`encode` (on the client), `release` (on the server) and `event` (for the ledger) sit in one class,
so that the claim covers what really happens to the vector, its rounding included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.noise_cohort import NoiseCohort
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.passengers import Passenger, Range, Told
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Stream
from codex_ray.types import Component, GroupSum, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Fact = Literal["records", "train_loss"]
"""What a mechanism may ask a client to tell beside its update."""


State: TypeAlias = tuple[float, ...]
"""What a mechanism learns from its releases and tells every client of the next round. It follows
from what was published, so it is public. Each number is one of float32, as it travels."""


@dataclass(frozen=True)
class Release:
    """What a round publishes: the mean update [d], and cohort means of what rode with it.

    `privacy` has what can be told of clipping and noise from what is published anyway; `state` is
    what the mechanism goes on with.
    """

    update: torch.Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
    privacy: Mapping[str, float] = field(default_factory=dict)
    state: State = ()


def signal_to_noise(update: torch.Tensor, deviation: float) -> float:
    """How long the mean update [d] is without its noise, over how long the noise is.

    Estimated from the noised update alone, as |update|^2 has d deviation^2 too much in the mean:
    so it costs nothing. Well below 1, training goes by the average over many rounds.
    """
    noise = len(update) * deviation**2
    square = float(torch.dot(update, update))
    return math.sqrt(max(0.0, square - noise) / noise)


class PrivacyMechanism(Protocol):
    """The plug-in point: what a client sends, what the server publishes, and its privacy event."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    @property
    def asks(self) -> frozenset[Fact]:
        """What each client has to tell beside its update; it leaves the client inside the sum."""
        ...

    def init(self) -> State:
        """The state before the first round; empty for a mechanism that has none."""
        ...

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding under which at most `summands` updates [dimension] are added.

        `expected` is the public cohort size, where it is another.
        """
        ...

    def encode(
        self,
        update: torch.Tensor,
        codec: Codec,
        *,
        rotation: Rotation | None = None,
        draws: Stream | None = None,
        told: Told | None = None,
        noise: Stream | None = None,
        state: State = (),
    ) -> Residues:
        """One client's update [d] as its summand [codec.length].

        `rotation` is the round's, if the codec rotates; `draws` the client's secret stream for
        rounding and `noise` that for its share of the noise; `told` what the mechanism asks for;
        `state` the round's.
        """
        ...

    def sent_norm(self, summand: Residues, codec: Codec, *, state: State = ()) -> float:
        """The norm of the update that one summand [codec.length] holds, for debugging."""
        ...

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
        """What may be published of the sum; `expected` is the public cohort size."""
        ...

    def fewest(self, expected: float) -> int:
        """How many clients must be in a sum for it to be opened at all; 0 if that is up to others.

        `expected` is the public cohort size.
        """
        ...

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """What one release costs a client that is in it, before amplification; None: no claim.

        Where clients bring the noise, that depends on the grid and on how many of them survived;
        left out, `survivors` are the fewest that a sum may have.
        """
        ...


def clipped(update: torch.Tensor, norm: float) -> torch.Tensor:
    """The update [d] in float64, shortened to `norm` if it is longer; zero if it is not finite.

    Whether a client had a number that is none must not show in the sum.
    """
    vector = update.double()
    length = float(torch.linalg.vector_norm(vector))
    if not length < float("inf"):
        return torch.zeros_like(vector)
    return vector * (min(1.0, norm / length) if length > 0 else 1.0)


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


class NoMechanism(Component):
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

    def init(self) -> State:
        """None."""
        return ()

    def fewest(self, expected: float) -> int:
        """As many as the protocol asks for."""
        return 0

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding over [-bound, bound], with the weight and the loss behind the update."""
        aboard: list[Passenger] = []
        if self.weights.largest is not None:
            aboard.append(Passenger("weight", self.weights.largest))
        if self.metrics.train_loss is not None:
            aboard.append(Passenger("train_loss", self.metrics.train_loss.steps))
            aboard.append(Passenger("train_loss_count", 1))
        return Codec(self.encoding, dimension, summands, self.bound, aboard=tuple(aboard))

    def encode(
        self,
        update: torch.Tensor,
        codec: Codec,
        *,
        rotation: Rotation | None = None,
        draws: Stream | None = None,
        told: Told | None = None,
        noise: Stream | None = None,
        state: State = (),
    ) -> Residues:
        """The update [d], cut to the bound, weighted and rounded, and what the client tells."""
        if not self.asks:
            return codec.encode(update, rotation=rotation, draws=draws)
        if told is None:
            raise ValueError(f"the mechanism asks for {sorted(self.asks)}: tell them")
        values = self._values(told)
        if self.weights.largest is not None:
            cut = torch.nan_to_num(update.double(), nan=0.0).clamp_(-self.bound, self.bound)
            update = cut * (values["weight"] / self.weights.largest)
        return codec.encode(update, rotation=rotation, draws=draws, values=values)

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


class CentralGaussian(Component):
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

    @property
    def asks(self) -> frozenset[Fact]:
        """Nothing."""
        return frozenset()

    def init(self) -> State:
        """None."""
        return ()

    def fewest(self, expected: float) -> int:
        """As many as the protocol asks for."""
        return 0

    def literal(self, expected: float) -> float:
        """The noise multiplier that the sum over a cohort of `expected` clients really has."""
        if self.noise_cohort is None:
            return self.noise_multiplier
        return self.noise_multiplier * expected / self.noise_cohort.cohort

    def codec(self, *, dimension: int, summands: int, expected: float | None = None) -> Codec:
        """The encoding of updates whose norm is at most clip_norm.

        Raises:
            ConfigError: the cohort is so large that rounding would eat the clip norm.
        """
        return Codec(self.encoding, dimension, summands, self.clip_norm, clip_norm=self.clip_norm)

    def encode(
        self,
        update: torch.Tensor,
        codec: Codec,
        *,
        rotation: Rotation | None = None,
        draws: Stream | None = None,
        told: Told | None = None,
        noise: Stream | None = None,
        state: State = (),
    ) -> Residues:
        """The update [d], clipped and rounded: the norm of the summand is at most clip_norm."""
        return codec.encode(clipped(update, codec.allowed_norm), rotation=rotation, draws=draws)

    def sent_norm(self, summand: Residues, codec: Codec, *, state: State = ()) -> float:
        """At most clip_norm."""
        return codec.norm(summand)

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
