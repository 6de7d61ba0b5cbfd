"""What a model takes and gives, in the words of its data: names, ranges, scaling, classes.

The registry says it of models of prepared data (`prepared_inputs`), and a file of any other, or
otherwise (`--inputs`). Where nobody says it, a record is so many numbers as the model takes, in a
wide range: it can be asked all the same, but refuses less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.config import load_yaml, validated
from codex_ray.errors import ConfigError
from codex_ray.serving.schema import Feature, Features, InputSchema, Kind
from codex_ray.types import Component

Floats = npt.NDArray[np.float64]


class Input(Component):
    """One value of a record: what is let in, and what the model is given for it."""

    name: str = Field(min_length=1, max_length=128, description="As people know it.")
    low: float = Field(default=0.0, description="The least that is let in.")
    high: float = Field(default=0.0, description="The most that is let in.")
    kind: Kind = Field(
        default="number",
        description="What it may be; a category is one of its values, and a date is written "
        "YYYY-MM-DD and counted, low and high as well, in days since 1970-01-01.",
    )
    unit: str = Field(default="", max_length=64, description="For people.")
    centre: float = Field(default=0.0, description="Taken off before the model sees it.")
    scale: float = Field(default=1.0, gt=0, description="By which it is divided then.")
    cut: float | None = Field(
        default=None, gt=0, description="At which what comes of that is cut, above and below 0."
    )
    values: tuple[str, ...] = Field(
        default=(),
        max_length=4096,
        description="Of a category; the model is given a 1 for the one that it is, and else zeros.",
    )
    lacking: float | None = Field(
        default=None,
        description="What stands for null, which is refused without; of a category zeros do.",
    )

    @model_validator(mode="after")
    def _has_room(self) -> Input:
        if (self.kind == "category") != bool(self.values):
            raise ConfigError(f"inputs: {self.name}: values are for a category, which needs them")
        if self.kind != "category" and not self.low < self.high:
            raise ConfigError(f"inputs: {self.name}: low is not below high")
        return self

    @property
    def width(self) -> int:
        """How many numbers the model is given for it."""
        return len(self.values) or 1

    @property
    def feature(self) -> Feature:
        """What requests are held to."""
        low, high = (0.0, self.width - 1.0) if self.values else (self.low, self.high)
        may_lack = self.lacking is not None
        return Feature(self.name, low, high, self.kind, self.unit, self.values, may_lack)


class Inputs(Component):
    """Every input in order, and the classes."""

    inputs: tuple[Input, ...] = Field(
        default=(), description="In the order of the model; none takes what the registry says."
    )
    labels: tuple[str, ...] = Field(default=(), description="Names of the classes, from class 0.")

    def schema_for(self, shape: tuple[int, ...]) -> InputSchema:
        """What requests are held to, for a model that takes records of that shape.

        Raises:
            ConfigError: the model takes another number of them.
        """
        width = sum(it.width for it in self.inputs)
        if math.prod(shape) != width:
            raise ConfigError(
                f"inputs: {len(self.inputs)} of them make {width} numbers, but the model takes "
                f"records of shape {list(shape)}: describe {math.prod(shape)}"
            )
        found = tuple(it.feature for it in self.inputs)
        return InputSchema(found, shape if width == len(found) else (len(found),))

    def scaler(self, shape: tuple[int, ...]) -> Callable[[Features], Features]:
        """What turns checked records [n, ...] into what the model was trained on [n, *shape]."""
        centre, scale, lacking, cut = (
            np.asarray([getattr(it, name) for it in self.inputs], np.float64)
            for name in ("centre", "scale", "lacking", "cut")
        )
        wide = any(it.values for it in self.inputs)
        gaps, cuts = not np.isnan(lacking).all(), not np.isnan(cut).all()
        most = np.where(np.isnan(cut), np.inf, cut)
        if not (wide or gaps or cuts or centre.any() or (scale != 1.0).any()):
            return lambda records: records

        def scaled(records: Features) -> Features:
            flat = records.reshape(len(records), -1).astype(np.float64)
            if gaps:
                flat = np.where(np.isnan(flat), lacking, flat)
            made = (flat - centre) / scale
            if cuts:
                made = np.clip(made, -most, most)
            if wide:
                made = self._spread(records.reshape(len(records), -1), made)
            return made.astype(np.float32).reshape(len(records), *shape)

        return scaled

    def _spread(self, given: Features, scaled: Floats) -> Floats:
        """The columns [n, width], where a category takes one for each of its values."""
        parts: list[Floats] = []
        for column, it in enumerate(self.inputs):
            if it.values:
                # NaN is equal to nothing, so that what is not known is all zeros.
                parts.append((given[:, [column]] == np.arange(it.width)).astype(np.float64))
            else:
                parts.append(scaled[:, [column]])
        return np.concatenate(parts, axis=1)


def read_inputs(file: Path) -> Inputs:
    """The inputs that a YAML or JSON file describes.

    Raises:
        ConfigError: it does not.
    """
    data = load_yaml(file)
    listed = data.get("inputs", [] if data.get("labels") else None)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ConfigError(f"{file}: inputs: list each input with its name, low and high")
    try:
        # One by one, so that an error names the input.
        found = [validated(Input, one) for one in listed]
        return validated(Inputs, {**data, "inputs": found})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def unnamed(shape: tuple[int, ...], *, within: float = 1e6) -> Inputs:
    """Inputs of which nothing is known but how many there are."""
    return Inputs(
        inputs=tuple(
            Input(name=f"x{number}", low=-within, high=within) for number in range(math.prod(shape))
        )
    )
