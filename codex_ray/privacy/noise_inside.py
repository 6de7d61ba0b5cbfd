"""Noise that clients bring themselves, inside the secure sum: nobody is trusted to add it.

Each client clips, rotates and rounds its update to whole steps of a grid (`codec`), adds whole
numbers drawn for it alone, and only then masks. The server sees the noised sum or nothing. Whole
numbers have no low-order bits to attack, and their sum is exact, so what is charged is what was
added: a sum of discrete Gaussians (Kairouz, Liu & Steinke 2021) or of Skellam variables (Agarwal,
Kairouz & Liu 2021).

Noise goes missing with the clients that drop, and conspirators know their own. So each client
brings its part of what the fewest honest survivors must have together, and with fewer survivors no
sum is opened.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.privacy.clip_and_round import ClipAndRound
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.discrete_gaussian import discrete_gaussian
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.events import on_grid
from codex_ray.privacy.inverse_cdf import WIDEST, Draws
from codex_ray.privacy.mechanism import Means, Release, State
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.privacy.quantisation import no_words
from codex_ray.privacy.rotation import Rotation
from codex_ray.privacy.skellam import skellam
from codex_ray.randomness import Stream
from codex_ray.types import GroupSum, Residues, word_type
from codex_ray.types import reduce as reduce_words

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class NoiseInside(ClipAndRound):
    """What both kinds of noise share: everything but the distribution of one client's part."""

    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one client's update.")
    noise_multiplier: NoiseMultiplier = Field(
        description="Standard deviation that the fewest honest survivors' noise has together, in "
        "units of clip_norm.",
    )
    assumed_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Fraction of the expected cohort that may be missing; with fewer clients no "
        "sum is opened.",
    )
    assumed_corrupt: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Fraction of the expected cohort whose noise counts for nothing.",
    )
    encoding: Encoding = Field(
        default=Encoding(bits=16, rounding="stochastic", rotate=True),
        description="How an update becomes words: rotated, and rounded at random.",
    )

    def fewest(self, expected: float) -> int:
        """How many clients must be in a sum for it to be opened at all."""
        return max(1, math.floor((1 - self.assumed_dropout) * expected + 1e-9))

    def conspirators(self, expected: float) -> int:
        """Clients whose noise counts for nothing."""
        return math.ceil(self.assumed_corrupt * expected - 1e-9)

    def honest(self, expected: float) -> int:
        """The fewest clients whose noise is sure to be in an opened sum.

        Raises:
            ConfigError: there is none.
        """
        left = self.fewest(expected) - self.conspirators(expected)
        if left < 1:
            raise ConfigError(
                f"federation.mechanism: of {expected:g} clients {self.fewest(expected)} need not "
                f"drop and {self.conspirators(expected)} may conspire, which leaves nobody's noise "
                "to count on: lower assumed_dropout or assumed_corrupt, or raise the cohort"
            )
        return left

    def codec(
        self,
        *,
        dimension: int,
        summands: int,
        expected: float | None = None,
        bringers: int | None = None,
    ) -> Codec:
        """The grid on which the noised sum of everybody about never wraps.

        `bringers` is how many clients bring noise, where each adds up several summands of its own.

        Raises:
            ConfigError: the words are too short for it, or one client's noise too wide.
        """
        parts = summands if bringers is None else bringers
        honest = self.honest(parts if expected is None else expected)
        noise = self.noise_multiplier * self.clip_norm * math.sqrt(parts / honest)
        codec = Codec(
            self.encoding,
            dimension,
            summands,
            self.clip_norm,
            clip_norm=self.clip_norm,
            noise=noise,
            bringers=bringers,
        )
        deviation = deviation_of(codec)
        if deviation > WIDEST:
            raise ConfigError(
                f"federation.mechanism.encoding.bits is {self.encoding.bits}: on that grid one "
                f"client's noise has a standard deviation of {deviation:.0f} steps, and at most "
                f"{WIDEST:.0f} are drawn: lower it"
            )
        return codec

    def _encode(self, updates: torch.Tensor, codec: Codec, means: Means) -> Residues:
        """The updates, clipped and rounded to at most clip_norm, and each client's noise on it."""
        if means.noise is None:
            raise ValueError("the client brings noise: give its own secret stream of this round")
        words = super()._encode(updates, codec, means)
        for row in range(len(words)):
            words[row] = self.noised(words[row], codec, noise=means.noise(row))
        return words

    def noised(self, words: Residues, codec: Codec, *, noise: Stream) -> Residues:
        """The words [codec.length] with one client's part of the noise on them."""
        drawn = self._draw(noise, codec.width, deviation_of(codec))
        # Two's complement: the low bits of a sum are the sum of the low bits.
        words += drawn.astype(word_type(codec.bits))
        reduced: Residues = reduce_words(words, codec.bits)
        return reduced

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
        """The sum divided by the public expected size: its noise is in it already."""
        return Release(codec.decode(group.total, rotation=rotation) / expected)

    def event(
        self,
        *,
        codec: Codec | None = None,
        expected: float | None = None,
        survivors: int | None = None,
    ) -> DpEvent | None:
        """What the noise of the honest survivors leaves to see of one client's summand.

        The neighbouring sum is that in which the client took part with an update of zero, so its
        noise is in both. Survivors are counted down to a hundredth of the cohort.

        Raises:
            ValueError: no grid is given.
        """
        if codec is None:
            raise ValueError("the noise is counted in steps: give the codec of the federation")
        size = (codec.bringers or codec.summands) if expected is None else expected
        fewest = self.fewest(size)
        seen = fewest if survivors is None else max(fewest, on_grid(survivors, int(size)))
        limit = self.clip_norm / codec.grid.step
        return self._event(
            summands=seen - self.conspirators(size),
            deviation=deviation_of(codec),
            l2=limit,
            # Whole numbers: none is between 0 and 1, so their sum is at most that of squares.
            l1=min(math.sqrt(codec.width) * limit, limit**2),
            dimension=codec.width,
        )

    @abstractmethod
    def _draw(self, noise: Stream, count: int, deviation: float) -> Draws:
        """One client's noise [count]."""

    @abstractmethod
    def _event(
        self, *, summands: int, deviation: float, l2: float, l1: float, dimension: int
    ) -> DpEvent:
        """What the noise of so many clients leaves to see; all lengths are in steps."""


class DiscreteGaussianNoise(NoiseInside):
    """Each client brings discrete Gaussian noise; sums of it are nearly, not quite, of the kind."""

    kind: Literal["discrete_gaussian"] = "discrete_gaussian"

    def _draw(self, noise: Stream, count: int, deviation: float) -> Draws:
        return discrete_gaussian(noise, count, sigma=deviation)

    def _event(
        self, *, summands: int, deviation: float, l2: float, l1: float, dimension: int
    ) -> DpEvent:
        from codex_ray.privacy.distributed_events import DiscreteGaussianSum  # imports accountants

        return DiscreteGaussianSum(summands, deviation, l2, l1, dimension)


class SkellamNoise(NoiseInside):
    """Each client brings Skellam noise, the difference of two Poissons; so is any sum of it."""

    kind: Literal["skellam"] = "skellam"

    def _draw(self, noise: Stream, count: int, deviation: float) -> Draws:
        return skellam(noise, count, variance=deviation**2)

    def _event(
        self, *, summands: int, deviation: float, l2: float, l1: float, dimension: int
    ) -> DpEvent:
        from codex_ray.privacy.distributed_events import SkellamSum  # imports accountants

        return SkellamSum(summands * deviation**2, l2, l1)


def rounded_sum(
    steps: Iterable[torch.Tensor], codec: Codec, *, rotation: Rotation | None, draws: Stream
) -> Residues:
    """The sum [codec.length] of `steps`, chunks [n, d], each of them rounded by itself.

    One record more adds words of norm clip_norm / step at most: rounding is conditional. Steps are
    to be clipped to `codec.allowed_norm`, or rounding would shorten them.
    """
    total: torch.Tensor | None = None
    for chunk in steps:
        for step in codec.scaled(chunk, rotation=rotation):
            # One by one, as they all draw from the same stream.
            rounded = codec.rounded(step[None], lambda _: draws)[0]
            total = rounded if total is None else total.add_(rounded)
    if total is None:
        return no_words(codec.length, bits=codec.bits)
    return codec.grid.wrapped(total)  # which is exact


def deviation_of(codec: Codec) -> float:
    """The standard deviation of the noise that one client brings, in steps of the grid."""
    return codec.noise / math.sqrt(codec.bringers or codec.summands) / codec.grid.step
