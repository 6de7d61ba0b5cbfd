"""Small synthetic images for any number of clients, made when they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import as_records, check_client
from codex_ray.data.partition import check_sizes
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component

Floats = npt.NDArray[np.float64]

_HIGHEST_FREQUENCY = 2
_PROTOTYPE_AMPLITUDE = 0.35
_STYLE_AMPLITUDE = 0.12
_GREY_LEVELS = 127.0
_SHIFTS = np.array([-1, 0, 0, 0, 1])


@cache
def _waves(side: int) -> Floats:
    """The waves of low frequency [24, side * side], the higher ones lower."""
    position = 2.0 * math.pi * np.arange(side) / side
    waves = []
    for across, down in product(range(-_HIGHEST_FREQUENCY, _HIGHEST_FREQUENCY + 1), repeat=2):
        # Of two opposite frequencies one is enough; the constant image says nothing.
        if (down, across) > (0, 0):
            angle = across * position[None, :] + down * position[:, None]
            height = 1.0 / (1.0 + math.hypot(across, down))
            waves += [height * np.cos(angle).ravel(), height * np.sin(angle).ravel()]
    return np.array(waves)


def _smooth_images(count: int, side: int, rng: np.random.Generator) -> Floats:
    """Random images [count, side, side] of low frequencies, zero mean and unit mean square."""
    waves = _waves(side)
    images = rng.standard_normal((count, len(waves))) @ waves
    images /= np.sqrt(np.mean(images**2, axis=1, keepdims=True))
    return images.reshape(count, side, side)


class SyntheticImages(Component):
    """Images whose class is a smooth pattern, seen shifted, in the client's own style, with noise.

    A client is made from its own named stream, so a population of a million costs nothing until
    clients are asked for, and every process sees the same images. Pixels lie in [-1, 1].
    """

    kind: Literal["synthetic_images"] = "synthetic_images"
    clients: int = Field(1000, ge=1, description="How many clients there are.")
    records_per_client: tuple[int, int] = Field(
        (20, 60), description="Fewest and most images of a client, drawn uniformly."
    )
    classes: int = Field(10, ge=2, description="How many labels there are.")
    size: int = Field(8, ge=5, description="Pixels a side; an image has shape [1, size, size].")
    label_skew: float = Field(
        1.0,
        gt=0,
        description="Dirichlet parameter of a client's label proportions: 0.1 gives clients with "
        "one or two labels, 100 equal shares.",
    )
    noise: float = Field(
        0.25, ge=0, description="Standard deviation of the pixel noise, where a pattern has 0.35."
    )
    test_records: int = Field(
        2000, ge=1, description="Size of the test set, of styles that no client has."
    )

    @model_validator(mode="after")
    def _bounds(self) -> SyntheticImages:
        check_sizes(self.records_per_client, field="data.records_per_client")
        return self

    def open(self, public: SeedTree) -> FederatedDataset:
        """The population of this seed; nothing but the patterns is made yet."""
        return _Population(self, public.child("data", self.kind))


@dataclass(frozen=True)
class _Population:
    """The clients of one seed, each made on request."""

    source: SyntheticImages
    streams: SeedTree

    @property
    def population(self) -> int:
        """How many clients there are."""
        return self.source.clients

    @cached_property
    def _patterns(self) -> Floats:
        """The pattern of each class [classes, side, side]."""
        rng = self.streams.stream("patterns").numpy()
        return _PROTOTYPE_AMPLITUDE * _smooth_images(self.source.classes, self.source.size, rng)

    def client(self, client: ClientId) -> Records:
        """The images of one client, under its own mixture of labels and in its own style.

        Raises:
            DataError: there is no such client.
        """
        check_client(client, self.population)
        rng = self.streams.stream("client", client).numpy()
        low, high = self.source.records_per_client
        count = int(rng.integers(low, high, endpoint=True))
        mixture = rng.dirichlet(np.full(self.source.classes, self.source.label_skew))
        labels = rng.choice(self.source.classes, size=count, p=mixture)
        return self._drawn(labels, 1, rng, f"client {client}")

    def test(self) -> Records:
        """Images of all classes alike, each in a style of its own."""
        rng = self.streams.stream("test").numpy()
        count = self.source.test_records
        labels = rng.integers(self.source.classes, size=count)
        return self._drawn(labels, count, rng, "test set")

    def _drawn(
        self, labels: npt.NDArray[np.int64], styles: int, rng: np.random.Generator, who: str
    ) -> Records:
        """One image [1, side, side] of each label: shifted by up to a pixel, styled and noisy."""
        side, count = self.source.size, len(labels)
        shift = rng.choice(_SHIFTS, size=(2, count, 1))
        rows, columns = (np.arange(side) + shift) % side  # [n, side] each
        images = self._patterns[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
        style = _STYLE_AMPLITUDE * _smooth_images(styles, side, rng)
        contrast = rng.uniform(0.7, 1.3, size=(styles, 1, 1))
        images = contrast * images + style
        images += self.source.noise * rng.standard_normal((count, side, side))
        # Grey levels, as a camera has them: rounding also hides the last bits of a libm.
        grey = np.rint(np.clip(images, -1.0, 1.0) * _GREY_LEVELS) / _GREY_LEVELS
        return as_records(grey[:, None], labels, where=f"synthetic_images, {who}")
