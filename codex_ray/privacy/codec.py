"""From an update to residues and back: rotate, scale, round, and reduce modulo 2^bits.

A mechanism clips and says what it can bound; `Encoding` is what the experiment chooses; a `Codec`
is both for one model and one largest cohort, and the same object on every client and the server.
It makes sure of two things before anything runs: a sum of the largest cohort cannot wrap, and
rounding takes no more than a stated share of the clip norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch

from codex_ray.errors import ConfigError
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.headroom import scale_for, two_sided_tail, wrap_probability
from codex_ray.privacy.passengers import Passenger, Passengers
from codex_ray.privacy.quantisation import FixedPoint, added, largest_level
from codex_ray.privacy.rotation import Rotation, padded
from codex_ray.privacy.rounding import (
    StreamOf,
    norm_before,
    round_stochastically,
    round_within,
)
from codex_ray.randomness import Stream
from codex_ray.types import WORD_BITS, Residues

ROUGHEST: Final = {"nearest": 0.1, "stochastic": 0.25}
"""The largest share of the clip norm that rounding may take. Errors of rounding to the nearest
point can all have one sign; those of stochastic rounding are independent, and cost a client 3 % of
its clip norm at that share."""

FEWEST_LEVELS: Final = 50
"""Without a clip norm: a coordinate's rounding error is at most 1 % of its bound."""

LIKELIEST_WRAP: Final = 0.01
"""The largest probability that any coordinate of a round wraps, where noise is inside the sum."""

CACHED: Final = 1 << 15
"""Numbers of a pass on a CPU, so that a pass stays in the second cache."""

HELD: Final = 1 << 26
"""Numbers of a pass on another device: half a gigabyte in float64, of which there are a few."""


@dataclass(frozen=True)
class Codec:
    """The encoding of updates [d] for sums of at most `summands` of them.

    Attributes:
        encoding: what the experiment chose.
        dimension: d, the length of an update.
        summands: the most updates that are ever added.
        bound: largest absolute coordinate of an update, before any rotation.
        clip_norm: largest norm of an update; None where the mechanism bounds none.
        noise: standard deviation of the noise that the summands bring to the sum, in the units of
            the update; 0 where noise is added after the sum.
        bringers: by how many equal parts that noise comes; None for one with each summand.
        aboard: what rides behind the update.
        adds: whether `encode_all` gives the sum of the summands in their place.
    """

    encoding: Encoding
    dimension: int
    summands: int
    bound: float
    clip_norm: float | None = None
    noise: float = 0.0
    bringers: int | None = None
    aboard: tuple[Passenger, ...] = ()
    adds: bool = False

    def __post_init__(self) -> None:
        """Refuses a grid that is too coarse, or on which sums could wrap.

        Raises:
            ConfigError: it names the field and the remedy.
        """
        if self.encoding.rotate and self.clip_norm is None:
            raise ConfigError(
                "federation.mechanism.encoding.rotate spreads an update of bounded norm, and this "
                "mechanism clips none: set it to false, or use a mechanism with a clip_norm"
            )
        if self.noise > 0:
            self._check_noise()
        elif self.levels < 1 or self._roughness > 1:
            raise ConfigError(
                f"federation.mechanism.encoding: {self.encoding.bits}-bit words leave "
                f"{self.levels} levels to each of up to {self.summands} summands, and rounding "
                f"{self.width} coordinates to those would take more of an update than it may: "
                f"{self._remedies()}"
            )

    def _check_noise(self) -> None:
        if not self.encoding.rotate or self.encoding.rounding != "stochastic":
            raise ConfigError(
                "federation.mechanism.encoding: noise inside the sum needs rotate: true and "
                "rounding: stochastic"
            )
        if self.wrap_probability > LIKELIEST_WRAP:
            raise ConfigError(
                f"federation.mechanism.encoding.headroom is {self.encoding.headroom:g}, at which "
                f"one of {self.width} coordinates wraps with probability "
                f"{self.wrap_probability:.2g} a round ({LIKELIEST_WRAP:g} is allowed): raise it"
            )
        if self._roughness > 1:
            raise ConfigError(
                f"federation.mechanism.encoding: {self.encoding.bits}-bit words hold the noised "
                f"sum of {self.summands} updates only on so coarse a grid that rounding would take "
                f"more of an update than it may: {self._remedies()}"
            )

    @property
    def _roughness(self) -> float:
        """What rounding takes, as a share of what it may take."""
        if self.clip_norm is None:
            return FEWEST_LEVELS / self.levels
        return self.rounding_norm / (ROUGHEST[self.encoding.rounding] * self.clip_norm)

    def _remedies(self) -> str:
        encoding = self.encoding
        found = ["raise encoding.bits"] if encoding.bits < WORD_BITS else []
        if self.clip_norm is not None:
            found += [] if encoding.rotate else ["set encoding.rotate: true"]
            if encoding.rounding == "nearest":
                found += ["set encoding.rounding: stochastic"]
        return ", ".join([*found, "lower the rate or size of federation.sampler"])

    @property
    def width(self) -> int:
        """How many words the update takes: d, or D, the power of two that a rotation pads it to."""
        return padded(self.dimension) if self.encoding.rotate else self.dimension

    @property
    def length(self) -> int:
        """How many words a summand has: the update's, and its passengers'."""
        return self.width + self.passengers.words

    @property
    def bits(self) -> int:
        """Sums are modulo 2^bits."""
        return self.encoding.bits

    @cached_property
    def passengers(self) -> Passengers:
        """What rides behind the update, in words."""
        return Passengers(self.aboard, self.summands, self.bits)

    @property
    def levels(self) -> int:
        """Largest absolute integer of a summand: levels * summands < 2^(bits-1) without noise."""
        if self.noise > 0:
            return self.grid.levels
        return largest_level(summands=self.summands, bits=self.bits)

    @cached_property
    def grid(self) -> FixedPoint:
        """The grid that each of the `width` coordinates is rounded to.

        A rotated coordinate is cut at headroom * clip_norm / sqrt(D), or where no vector of that
        norm can reach: see `cut_norm` for what that does to a mean.
        """
        reach = self.bound
        if self.encoding.rotate and self.clip_norm is not None:
            reach = self.clip_norm * min(1.0, self.encoding.headroom / math.sqrt(self.width))
        if self.noise == 0:
            return FixedPoint.without_wrap(reach, summands=self.summands, bits=self.bits)
        step = 1 / self._scale
        return FixedPoint(step, max(1, math.floor(reach / step)), self.bits)

    @property
    def _scale(self) -> float:
        """Steps to a unit where noise is inside the sum."""
        assert self.clip_norm is not None
        try:
            return scale_for(
                bits=self.bits,
                summands=self.summands,
                clip_norm=self.clip_norm,
                noise=self.noise,
                dimension=self.width,
                headroom=self.encoding.headroom,
            )
        except ValueError as error:
            raise ConfigError(
                f"federation.mechanism.encoding: {error}: {self._remedies()}"
            ) from None

    @property
    def wrap_probability(self) -> float:
        """The probability that any coordinate of a round wraps; 0 without noise inside the sum."""
        if self.noise == 0 or self.clip_norm is None:
            return 0.0
        return wrap_probability(
            bits=self.bits,
            summands=self.summands,
            scale=self._scale,
            clip_norm=self.clip_norm,
            noise=self.noise,
            dimension=self.width,
        )

    @property
    def rounding_norm(self) -> float:
        """The norm of the rounding error: at most (nearest), or in the mean square (stochastic)."""
        return self.grid.step / 2 * math.sqrt(self.width)

    @property
    def allowed_norm(self) -> float:
        """The norm to clip an update to, so that it is at most `clip_norm` when it is rounded."""
        assert self.clip_norm is not None
        if self.encoding.rounding == "nearest":
            return self.clip_norm - self.rounding_norm
        return self.grid.step * norm_before(self.clip_norm / self.grid.step, self.width)

    @property
    def cut_norm(self) -> float:
        """A bound on the root mean square norm of what is cut off an update after its rotation.

        That is how far the cut can move the mean of a decoded update. A coordinate exceeds t c /
        sqrt(D) with probability at most 2 exp(-t^2/2), so with k = headroom the cut-off part of all
        D has a mean square of at most 4 c^2 (exp(-k^2/2) - k sqrt(2 pi) Q(k)); 4e-5 c at k = 6.
        """
        if not self.encoding.rotate or self.clip_norm is None:
            return 0.0
        k = self.encoding.headroom
        if k >= math.sqrt(self.width):
            return 0.0
        tail = math.exp(-(k**2) / 2) - k * math.sqrt(2 * math.pi) * two_sided_tail(k) / 2
        return 2 * self.clip_norm * math.sqrt(max(0.0, tail))

    def rotation(self, signs: Stream) -> Rotation | None:
        """The rotation of a round, from its public stream; None where nothing is rotated."""
        return Rotation.drawn(signs, dimension=self.dimension) if self.encoding.rotate else None

    def rows(self, device: torch.device) -> int:
        """How many updates one pass should take: what the cache or the device has room for."""
        return max(1, (CACHED if device.type == "cpu" else HELD) // self.width)

    def encode(
        self,
        vector: torch.Tensor,
        *,
        rotation: Rotation | None = None,
        draws: Stream | None = None,
        values: Mapping[str, int] | None = None,
    ) -> Residues:
        """A clipped update [d] and its passengers' values as a summand [length].

        Raises:
            ValueError: the encoding rotates or draws, and was not given the means to.
        """
        alone: Residues = self.encode_all(
            vector[None],
            rotation=rotation,
            draws=None if draws is None else lambda client: draws,
            values=[values or {}],
        )[0]
        return alone

    def encode_all(
        self,
        vectors: torch.Tensor,
        *,
        rotation: Rotation | None = None,
        draws: StreamOf | None = None,
        values: Sequence[Mapping[str, int]] | None = None,
    ) -> Residues:
        """Clipped updates [n, d] and their passengers' values as summands [n, length].

        All is done on the device that the updates are on, which only the words leave. Of a codec
        that adds, those are the words of the sum alone [1, length].

        Raises:
            ValueError: the encoding rotates or draws, and was not given the means to.
        """
        integers = self.rounded(self.scaled(vectors, rotation=rotation), draws)
        words = self.grid.total(integers)[None] if self.adds else self.grid.residues(integers)
        if not self.aboard:
            return words
        told = [self.passengers.encode(each) for each in values or [{}] * len(vectors)]
        aside = added(told, bits=self.bits)[None] if self.adds else np.stack(told)
        return np.concatenate([words, aside], axis=1)

    def scaled(self, vectors: torch.Tensor, *, rotation: Rotation | None = None) -> torch.Tensor:
        """The updates [n, d], rotated, in steps of the grid [n, width], float64, not yet rounded.

        Raises:
            ValueError: the encoding rotates, and no rotation is given.
        """
        self._check_means(rotation)
        return self.grid.scaled(vectors if rotation is None else rotation.forward(vectors))

    def rounded(self, scaled: torch.Tensor, draws: StreamOf | None) -> torch.Tensor:
        """Whole numbers [n, width] near to `scaled` [n, width], each row as short as it must be.

        Raises:
            ValueError: the encoding draws, and no streams are given.
        """
        if self.encoding.rounding == "nearest":
            return scaled.round()
        if draws is None:
            raise ValueError("stochastic rounding draws: give the client's stream of this round")
        streams = [draws(row) for row in range(len(scaled))]
        if self.clip_norm is None:
            return round_stochastically(scaled, streams)
        return round_within(scaled, streams, limit=self.clip_norm / self.grid.step)

    def decode(self, total: Residues, *, rotation: Rotation | None = None) -> torch.Tensor:
        """The sum of the updates [d], float64, from the sum of the summands [length].

        Raises:
            ValueError: the encoding rotates, and no rotation is given.
        """
        self._check_means(rotation)
        vector = self.grid.decode(total[: self.width])
        return vector if rotation is None else rotation.inverse(vector)[: self.dimension]

    def side(self, total: Residues) -> dict[str, int]:
        """The sums of the passengers' values, from the sum of the summands [length]."""
        return self.passengers.decode(total[self.width :])

    def norm(self, summand: Residues) -> float:
        """The norm of the update in a summand [length], in the units of the update."""
        return float(torch.linalg.vector_norm(self.grid.decode(summand[: self.width])))

    def _check_means(self, rotation: Rotation | None) -> None:
        if (rotation is not None) != self.encoding.rotate:
            raise ValueError("a rotation goes with an encoding that rotates, and with no other")
