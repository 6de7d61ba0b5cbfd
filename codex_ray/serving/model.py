"""A model ready to answer: one immutable object, so that changing it is one assignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.serving.schema import Features, InputSchema

Probabilities: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Served:
    """A verified version of a model.

    Attributes:
        name: of the model.
        version: of it, as people say it.
        identity: of exactly this content: another one is another model.
        schema: of what it takes.
        labels: of its classes, in order.
        predict: records [n, ...] to probabilities [n, classes]; it may run in another thread.
        card: the page that people read: its privacy above all.
        weights: the file of its parameters, for those who may fetch it.
        unsafe: the safeguards that somebody switched off for it, by name.
    """

    name: str
    version: str
    identity: str
    schema: InputSchema
    labels: tuple[str, ...]
    predict: Callable[[Features], Probabilities] = field(repr=False)
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)
    weights: bytes | None = field(default=None, repr=False)
    unsafe: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        """What a policy calls it."""
        return f"model/{self.name}/{self.version}"


class Models(Protocol):
    """Where models come from: whatever it gives has been verified."""

    def identity(self) -> str | None:
        """Of the model to serve now, or None where nothing is to be served; asked once a second.

        Raises:
            CodexRayError: it cannot be told.
        """
        ...

    def check(self, identity: str) -> None:
        """Looks again at the model of that identity, which answers; asked once an hour.

        Raises:
            CodexRayError: it is revoked, or not any more what was believed.
        """
        ...

    def load(self) -> Served:
        """The model to serve now.

        Raises:
            CodexRayError: it cannot be believed.
        """
        ...
