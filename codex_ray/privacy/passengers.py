"""Whole numbers that ride behind the update: summed exactly, and as hidden as the update itself.

A weight or a metric of one client is as private as its update, so it must not travel beside the
masked vector. Its declared range can be wider than a word of the sum. So it is cut into digits,
each so small that over the largest cohort their sum cannot wrap, and the sums of the digits are
put together again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.privacy.quantisation import no_words
from codex_ray.types import Component, Residues


@dataclass(frozen=True)
class Told:
    """What a client tells of itself beside its update, to be summed and never to be seen alone.

    Attributes:
        records: how many it trained on.
        train_loss: mean loss of the round's parameters on its own records, before it trained; None
            if it has none, or if nobody asked.
    """

    records: int = 1
    train_loss: float | None = None


class Range(Component):
    """A metric's declared range and resolution: what it may say, and in what steps."""

    low: float = Field(description="Smallest value; a smaller one is taken for it.")
    high: float = Field(description="Largest value; a larger one is taken for it.")
    resolution: float = Field(gt=0, description="Step to which a client's value is rounded.")

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if not 0 < self.steps < 2**52:
            raise ConfigError(
                f"metrics: a range from {self.low:g} to {self.high:g} in steps of "
                f"{self.resolution:g} has {self.steps} of them: give high > low, and fewer than "
                "2^52 steps"
            )
        return self

    @property
    def steps(self) -> int:
        """The number of the highest step; the lowest is 0."""
        return math.ceil((self.high - self.low) / self.resolution)

    def step_of(self, value: float) -> int:
        """The nearest step to the value; a loss that has become no number is as bad as can be."""
        inside = self.high if math.isnan(value) else min(max(value, self.low), self.high)
        return min(self.steps, round((inside - self.low) / self.resolution))

    def mean(self, total: int, count: int) -> float:
        """The mean of `count` values whose steps add up to `total`."""
        return self.low + self.resolution * total / count


@dataclass(frozen=True)
class Passenger:
    """A number from 0 to `largest` that each client adds to the sum."""

    name: str
    largest: int


@dataclass(frozen=True)
class Passengers:
    """The words behind the update, least significant digit first, one passenger after another.

    Attributes:
        aboard: who rides, in the order of their words.
        summands: the most clients that are ever added.
        bits: the modulus is 2^bits.
    """

    aboard: tuple[Passenger, ...]
    summands: int
    bits: int

    @property
    def digit_bits(self) -> int:
        """k, the bits of a digit: summands * (2^k - 1) < 2^bits, so that no sum of digits wraps.

        Raises:
            ConfigError: the cohort is so large that not one bit is left.
        """
        room = ((1 << self.bits) - 1) // self.summands + 1
        if room < 2:
            raise ConfigError(
                f"federation.mechanism.encoding: {self.summands} summands leave no digit in "
                f"{self.bits} bits: raise encoding.bits"
            )
        return room.bit_length() - 1

    @property
    def words(self) -> int:
        """How many words all of them take."""
        return sum(map(self._digits, self.aboard))

    def _digits(self, passenger: Passenger) -> int:
        return -(-passenger.largest.bit_length() // self.digit_bits)

    def encode(self, values: Mapping[str, int]) -> Residues:
        """One client's digits [words].

        Raises:
            ValueError: a value is missing, or outside its declared range.
        """
        found: list[int] = []
        base = 1 << self.digit_bits
        for passenger in self.aboard:
            value = values.get(passenger.name, -1)
            if not 0 <= value <= passenger.largest:
                raise ValueError(f"{passenger.name} must be from 0 to {passenger.largest}")
            for _ in range(self._digits(passenger)):
                value, digit = divmod(value, base)
                found.append(digit)
        words = no_words(len(found), bits=self.bits)
        words[:] = found
        return words

    def decode(self, totals: Sequence[int] | Residues) -> dict[str, int]:
        """The exact sum of every passenger's values, from the sums of the digits [words]."""
        sums, at = {}, 0
        for passenger in self.aboard:
            count = self._digits(passenger)
            digits = [int(total) for total in totals[at : at + count]]
            sums[passenger.name] = sum(d << (self.digit_bits * i) for i, d in enumerate(digits))
            at += count
        return sums
