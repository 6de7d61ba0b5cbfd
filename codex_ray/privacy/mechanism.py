"""What a privacy mechanism is: from update to summand, from sum to release, and what that costs.

`encode` (on the client), `release` (on the server) and `event` (for the ledger) sit in one class,
so that the claim covers what really happens to the vector, its rounding included.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import torch

from codex_ray.privacy.codec import Codec
from codex_ray.privacy.passengers import Told
from codex_ray.privacy.quantisation import added, no_summands
from codex_ray.privacy.rotation import Rotation
from codex_ray.privacy.rounding import StreamOf
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


@dataclass(frozen=True)
class Means:
    """What the clients of a chunk encode their updates with.

    Attributes:
        rotation: the round's, if the codec rotates.
        draws: each client's secret stream for rounding.
        noise: each client's secret stream for its share of the noise.
        told: what each client tells beside its update, if the mechanism asks for it.
        state: the round's.
    """

    rotation: Rotation | None = None
    draws: StreamOf | None = None
    noise: StreamOf | None = None
    told: Sequence[Told | None] | None = None
    state: State = ()

    def since(self, first: int) -> Means:
        """The means of the clients from `first` on, who are counted from 0 again."""
        return replace(
            self,
            draws=_shifted(self.draws, first),
            noise=_shifted(self.noise, first),
            told=None if self.told is None else self.told[first:],
        )


def _shifted(streams: StreamOf | None, by: int) -> StreamOf | None:
    return None if streams is None else lambda client: streams(client + by)


def _alone(stream: Stream | None) -> StreamOf | None:
    """The streams of a chunk of one client."""
    return None if stream is None else lambda client: stream


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

    def encode_all(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The summands [n, codec.length] of n clients, from their updates [n, d] on any device.

        On a CPU each is what `encode` gives, to the bit, whoever the others are.
        """
        ...

    def encode_sum(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The sum [codec.length] of what `encode_all` gives modulo 2^bits, to the bit."""
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


Encode = TypeVar("Encode", bound=Callable[..., Residues])


def adding(encode: Encode) -> Encode:
    """Marks an `_encode` that gives what its codec gives, be that the summands or their sum.

    One that does more to the words, such as to put each client's noise on them, must not be marked.
    The mark is the function's own: what overrides it has none, unless it says so itself.
    """
    vars(encode)["adds"] = True
    return encode


class Mechanism(Component):
    """What most mechanisms share; it has no field, so that each lists its own in its own order."""

    @property
    def asks(self) -> frozenset[Fact]:
        """Nothing."""
        return frozenset()

    def init(self) -> State:
        """None that is public."""
        return ()

    def fewest(self, expected: float) -> int:
        """As many as the protocol asks for."""
        return 0

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

        Raises:
            ValueError: something that the mechanism or its codec needs is not given.
        """
        means = Means(rotation, _alone(draws), _alone(noise), [told], state)
        alone: Residues = self._encode(update[None], codec, means)[0]
        return alone

    def encode_all(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The summands [n, codec.length] of n clients, from their updates [n, d] on any device.

        Raises:
            ValueError: something that the mechanism or its codec needs is not given.
        """
        found = no_summands(len(updates), codec.length, bits=codec.bits)
        rows = codec.rows(updates.device)
        for first in range(0, len(updates), rows):
            some = updates[first : first + rows]
            found[first : first + rows] = self._encode(some, codec, means.since(first))
        return found

    def encode_sum(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The sum [codec.length] of those summands modulo 2^bits, to the bit.

        Each pass is added on the device that the updates are on, unless the mechanism does more to
        words than its codec does: then the summands are added here.

        Raises:
            ValueError: something that the mechanism or its codec needs is not given.
        """
        if not self._adds:
            return added(self.encode_all(updates, codec, means), bits=codec.bits)
        rows, codec = codec.rows(updates.device), replace(codec, adds=True)
        starts = range(0, len(updates), rows)
        found = no_summands(len(starts), codec.length, bits=codec.bits)
        for at, first in enumerate(starts):
            words = self._encode(updates[first : first + rows], codec, means.since(first))
            found[at] = added(words, bits=codec.bits)
        return added(found, bits=codec.bits)

    @property
    def _adds(self) -> bool:
        """Whether a codec may add before words leave the device: nothing is done to them then."""
        own = type(self)
        return own.encode_all is Mechanism.encode_all and getattr(own._encode, "adds", False)

    @abstractmethod
    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The summands [n, codec.length] of so many updates [n, d] as one pass should take."""

    def sent_norm(self, summand: Residues, codec: Codec, *, state: State = ()) -> float:
        """The norm of what a client sent, its own noise included."""
        return codec.norm(summand)
