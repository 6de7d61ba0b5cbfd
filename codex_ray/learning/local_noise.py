"""Noise on the records themselves, before anything is trained: the local model of privacy.

Whoever sees the noised records, and so everything that is ever made of them, learns no more than
the stated epsilon about what one record said. Nobody else is trusted, and nothing that follows
costs anything. Both worlds hold a record, with any two contents: the relation is replace-one.

A record is noised once, from a stream that names its client and nothing else. A second draw would
be a second release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.stand_in import stand_in
from codex_ray.errors import DataError
from codex_ray.privacy.noise_multiplier import NoiseMultiplier
from codex_ray.randomness import SeedTree, Stream
from codex_ray.types import ClientId, Component

if TYPE_CHECKING:
    from dp_accounting import DpEvent

STREAM: Final = "local_noise"
WHOLE: Final = "a whole record"
"""What is covered where nothing of a record is left out."""


class LocalNoise(Protocol):
    """The plug-in point: how a client's records are noised, and what that costs one of them."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    @property
    def covers(self) -> str:
        """What of a record the claim is about."""
        ...

    def noised(self, records: Records, stream: Stream) -> Records:
        """The records as they may be shown to anybody."""
        ...

    def event(self) -> DpEvent:
        """What showing a noised record costs it, once and for all, under replace-one."""
        ...


class RandomisedResponse(Component):
    """Each label is kept with a probability, and else is any of the others (Warner 1965; k-ary:
    Kairouz, Bonawitz & Ramage 2016). Features stay as they are.

    The epsilon is pure (delta is 0): P[y -> y] / P[y' -> y] = e^epsilon.
    """

    kind: Literal["randomised_response"] = "randomised_response"
    epsilon: float = Field(gt=0, le=30, description="What the label of one record costs.")
    classes: int = Field(default=2, ge=2, description="How many labels there are.")

    @property
    def covers(self) -> str:
        """The label alone."""
        return "the label of a record; its features are not covered"

    @property
    def kept(self) -> float:
        """The probability of a label to stay what it is: e^epsilon / (e^epsilon + k - 1)."""
        return 1 / (1 + (self.classes - 1) * math.exp(-self.epsilon))

    @property
    def in_words(self) -> str:
        """What happens to a label."""
        return (
            f"it is kept with probability {self.kept:.6g}, and else any other of {self.classes} "
            "alike"
        )

    def noised(self, records: Records, stream: Stream) -> Records:
        """The records with their labels answered at random.

        Raises:
            DataError: a label is none of the classes.
        """
        labels = records.labels
        if len(labels) and int(labels.max()) >= self.classes:
            raise DataError(
                f"local_noise.classes is {self.classes}, but there is a label {int(labels.max())}: "
                "raise it to the number of labels"
            )
        keep = stream.uniform(len(labels)) < self.kept
        # 1 to k - 1 further round the circle of labels: each of the others alike.
        shift = 1 + np.floor(stream.uniform(len(labels)) * (self.classes - 1)).astype(np.int64)
        return Records(records.features, np.where(keep, labels, (labels + shift) % self.classes))

    def frequencies(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Unbiased estimates [k] of the true shares of the labels from the answers [n]."""
        seen = np.bincount(labels, minlength=self.classes) / max(1, len(labels))
        changed = (1 - self.kept) / (self.classes - 1)
        return np.asarray((seen - changed) / (self.kept - changed))

    def event(self) -> DpEvent:
        """Randomised response, whose noise parameter is the chance of an answer by the die."""
        import dp_accounting as dp  # slow to import, and hosts never account

        # There the die may show the true label as well.
        die = self.classes * (1 - self.kept) / (self.classes - 1)
        return dp.RandomizedResponseDpEvent(die, self.classes)


class LocalGaussianRecords(Component):
    """Each record's features are cut to a norm, and every one of them gets Gaussian noise.

    Features and label travel together, so a label that is shown as it is would not be covered: it
    is answered at random too, and epsilons add up. Without an epsilon for the label the claim is
    about the features alone.
    """

    kind: Literal["gaussian_records"] = "gaussian_records"
    clip_norm: float = Field(
        gt=0, description="Largest Euclidean norm of one record's features, about 0."
    )
    noise_multiplier: NoiseMultiplier = Field(
        description="Standard deviation of the noise on each feature, in units of clip_norm."
    )
    labels: RandomisedResponse | None = Field(
        default=None, description="How labels are answered; without it they are shown as they are."
    )

    @property
    def covers(self) -> str:
        """The whole record, or all but its label."""
        if self.labels is None:
            return "the features of a record; its label is not covered"
        return WHOLE

    def noised(self, records: Records, stream: Stream) -> Records:
        """The records with noised features, and labels answered at random; bad numbers are 0.

        Raises:
            DataError: a label is none of the classes.
        """
        flat = records.features.astype(np.float64)
        flat = flat.reshape(len(records), math.prod(flat.shape[1:]))
        flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, 0.0)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        flat *= np.minimum(1.0, self.clip_norm / np.maximum(norms, self.clip_norm))
        noise = stream.normal(flat.size).reshape(flat.shape)
        flat += self.noise_multiplier * self.clip_norm * noise
        shown = flat.reshape(records.features.shape).astype(np.float32)
        if self.labels is None:
            return Records(shown, records.labels)
        return self.labels.noised(Records(shown, records.labels), stream)

    def event(self) -> DpEvent:
        """A Gaussian release, and the label's: any two records are up to 2 clip_norm apart.

        Under replace-one an accountant takes the sensitivity of a Gaussian event twice, so the
        event is stated in units of clip_norm.
        """
        import dp_accounting as dp

        features = dp.GaussianDpEvent(self.noise_multiplier)
        if self.labels is None:
            return features
        return dp.ComposedDpEvent((features, self.labels.event()))


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """The delta of one noised record at `epsilon`, in closed form.

    Phi(1/(2s) - epsilon s) - e^epsilon Phi(-1/(2s) - epsilon s), where s is the noise in units of
    the distance 2 clip_norm of two records (Balle & Wang 2018, theorem 8).
    """
    scale = noise_multiplier / 2
    near, far = 1 / (2 * scale) - epsilon * scale, -1 / (2 * scale) - epsilon * scale
    # Phi(x) = erfc(-x / sqrt 2) / 2.
    return (
        math.erfc(-near / math.sqrt(2)) - math.exp(epsilon) * math.erfc(-far / math.sqrt(2))
    ) / 2


def gaussian_noise_for(epsilon: float, delta: float) -> float:
    """The least noise multiplier of records at (`epsilon`, `delta`), by bisection."""
    low, high = 1e-3, 1.0
    while gaussian_delta(epsilon, high) > delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if gaussian_delta(epsilon, middle) > delta:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class NoisedDataset:
    """A data set whose clients show noised records only; the test set stays as it is.

    In a seeded run a client's records are noised alike in every process. Without a seed each
    process has secrets of its own: then records may be noised by one process only, and are kept.
    """

    dataset: FederatedDataset
    noise: LocalNoise
    secret: SeedTree = field(repr=False)
    _shown: dict[ClientId, Records] = field(default_factory=dict, repr=False)

    @property
    def population(self) -> int:
        """How many clients there are."""
        return self.dataset.population

    def client(self, client: ClientId) -> Records:
        """The noised records of one client, the same on every call."""
        if client not in self._shown:
            stream = self.secret.stream(STREAM, client)
            self._shown[client] = self.noise.noised(self.dataset.client(client), stream)
        return self._shown[client]

    @property
    def stand_in(self) -> FederatedDataset:
        """This one, unless the data set below has another for whatever depends on no value."""
        below = stand_in(self.dataset)
        if below is self.dataset:
            return self
        # Noise of its own: made-up records are no secret, and would tell the other's.
        return NoisedDataset(below, self.noise, self.secret.child("stand in"))

    def test(self) -> Records:
        """The held-out test set, without noise."""
        return self.dataset.test()
