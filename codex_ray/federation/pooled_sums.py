"""What all clients hold together, by the run's own secure sum: whole numbers, or with its noise.

Before a run is begun, every client is asked for one vector, and the server learns nothing but the
sum. Whoever is missing would make another sum of it, so all of them have to answer. Where they
answer, in this process or on hosts, is the matter of the seam that they are asked over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.errors import ConfigError, SumAborted
from codex_ray.federation.bare_sums import BareSum
from codex_ray.federation.transport import Transport
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_inside import NoiseInside, deviation_of, rounded_sum
from codex_ray.privacy.rotation import Rotation
from codex_ray.randomness import Randomness
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.secagg.trips import add_up
from codex_ray.types import WORD_BITS, ClientId, Residues, SessionContext

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Floats: TypeAlias = npt.NDArray[np.float64]
Whole: TypeAlias = npt.NDArray[np.int64]
Noisy: TypeAlias = CentralGaussian | NoiseInside | LocalGaussian
"""The mechanisms by which a sum over all clients can be noised."""

Question = TypeVar("Question", contravariant=True)
"""What clients can be asked for."""

STREAM: Final = "statistics"
LARGEST: Final = 2 ** (WORD_BITS - 1) - 1
"""A sum of whole numbers lies between this and its negative."""
FINE_ENOUGH: Final = 4096.0
"""Standard deviation of one client's whole-number noise, in steps, beyond which a finer grid gains
nothing, and tables to draw from grow."""
CHUNK: Final = 1024
"""Records that are rounded at a time."""


@dataclass(frozen=True)
class Pool(Generic[Question]):
    """All clients, who can be asked for one sum after the other.

    Attributes:
        protocol: how they sum.
        population: how many they are.
        run: 16 bytes that their sessions are bound to.
        asked: a seam to clients who answer that question with so many words of so many bits.
    """

    protocol: SumProtocol
    population: int
    run: bytes
    asked: Callable[[Question, int, int], Transport]

    def words(
        self, question: Question, *, dimension: int, number: int, bits: int = WORD_BITS
    ) -> Residues:
        """The sum [dimension] modulo 2^bits of all answers, in the session of that number.

        Raises:
            ConfigError: the protocol takes no such cohort.
            SumAborted: somebody is not in the sum.
        """
        self.protocol.check(self.population)
        seam = self.asked(question, dimension, bits)
        bare = BareSum(seam, self.protocol, dimension, bits=bits, run_id=self.run)
        result = bare.run(self.population, round=number)
        if len(result.members) < self.population:
            raise SumAborted(
                f"statistics: {len(result.members)} of {self.population} clients are in the sum, "
                "and all are needed: start the run again"
            )
        context = SessionContext(self.run, number, 0, bytes(32), dimension, bits)
        return add_up((group.total for group in result.groups), context)

    def whole(self, question: Question, *, dimension: int, number: int) -> Whole:
        """The exact sum [dimension] of whole numbers, as long as it lies within LARGEST."""
        total = self.words(question, dimension=dimension, number=number)
        return total.view(np.int32).astype(np.int64)


def as_words(whole: Whole) -> Residues:
    """Whole numbers [d] as a summand: in two's complement the low 32 bits of a sum are the sum of
    the low 32 bits."""
    return (whole & 0xFFFFFFFF).astype(np.uint32)


@dataclass(frozen=True)
class NoisedSum:
    """One sum of vectors over all clients, released with the noise of the run's own mechanism.

    Attributes:
        mechanism: the run's, with the norm and the noise of this sum.
        population: how many clients there are.
        dimension: d, of their vectors.
        records: where each record is a vector of its own, about how many there are in all; None
            where each client has one. More of them cost accuracy and no privacy.
    """

    mechanism: Noisy
    population: int
    dimension: int
    records: int | None = None

    @cached_property
    def codec(self) -> Codec:
        """The grid of the sum: as fine as the noise makes it worth.

        Raises:
            ConfigError: no grid holds the sum.
        """
        mechanism, people = self.mechanism, self.population
        if not isinstance(mechanism, NoiseInside):
            return mechanism.codec(dimension=self.dimension, summands=people)
        for bits in range(WORD_BITS, 15, -1):
            louder = _with_bits(mechanism, bits)
            try:
                codec = louder.codec(
                    dimension=self.dimension,
                    summands=self.records or people,
                    expected=people,
                    bringers=None if self.records is None else people,
                )
            except ConfigError:
                continue
            if deviation_of(codec) <= FINE_ENOUGH:
                return codec
        raise ConfigError(
            f"data.prepare: no grid of 16 to {WORD_BITS} bits holds {self.dimension} noised "
            "figures of so many clients: lower data.prepare.bins, or set scaling: fixed"
        )

    def event(self) -> DpEvent:
        """What the release costs a record or a client that is in it."""
        codec = self.codec if isinstance(self.mechanism, NoiseInside) else None
        event = self.mechanism.event(
            codec=codec, expected=self.population, survivors=self.population
        )
        assert event is not None  # Each of these mechanisms makes a claim.
        return event

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on one coordinate of the sum, in units of the vectors."""
        noisy = self.mechanism
        own = noisy.noise_multiplier * noisy.clip_norm
        if isinstance(noisy, LocalGaussian):
            return own * math.sqrt(self.population)
        if isinstance(noisy, NoiseInside):
            return deviation_of(self.codec) * self.codec.grid.step * math.sqrt(self.population)
        return own

    def summand(
        self, vectors: Floats, client: ClientId, *, randomness: Randomness, number: int
    ) -> Residues:
        """What a client adds to the sum: of its vector [d], or of its records' [n, d].

        Its share of the noise is in it, where clients bring the noise.
        """
        secret = randomness.secret
        draws = secret.stream(STREAM, "rounding", number, client)
        noise = secret.stream(STREAM, "noise share", number, client)
        rotation = self._rotation(randomness, number)
        if self.records is None:
            return self.mechanism.encode(
                torch.from_numpy(vectors), self.codec, rotation=rotation, draws=draws, noise=noise
            )
        assert isinstance(self.mechanism, NoiseInside)  # Others add up what one client has.
        chunks = _shortened(vectors, self.codec.allowed_norm)
        words = rounded_sum(iter(chunks), self.codec, rotation=rotation, draws=draws)
        return self.mechanism.noised(words, self.codec, noise=noise)

    def release(
        self, question: Question, pool: Pool[Question], *, randomness: Randomness, number: int
    ) -> Floats:
        """The noised sum [d] of the summands with which clients answer that question.

        Raises:
            ConfigError, SumAborted: as `Pool.words`.
        """
        codec, noisy = self.codec, self.mechanism
        total = pool.words(question, dimension=codec.length, number=number, bits=codec.bits)
        if isinstance(noisy, CentralGaussian):
            drawn = randomness.secret.stream(STREAM, "release", number).normal(self.dimension)
            noise = noisy.noise_multiplier * noisy.clip_norm * drawn
        else:
            noise = np.zeros(self.dimension)  # The clients brought it.
        rotation = self._rotation(randomness, number)
        found: Floats = codec.decode(total, rotation=rotation).numpy() + noise
        return found

    def _rotation(self, randomness: Randomness, number: int) -> Rotation | None:
        return self.codec.rotation(randomness.public.stream(STREAM, "rotation", number))


def _with_bits(mechanism: NoiseInside, bits: int) -> NoiseInside:
    encoding = mechanism.encoding.model_copy(update={"bits": bits})
    return mechanism.model_copy(update={"encoding": encoding})


def _shortened(vectors: Floats, norm: float) -> Sequence[torch.Tensor]:
    """The vectors [n, d], none longer than `norm`, in chunks."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), norm)
    whole = torch.from_numpy(vectors * (norm / lengths))
    return torch.split(whole, CHUNK) if len(whole) else []
