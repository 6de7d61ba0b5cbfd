"""What a model takes and gives, in the words of its data: names, ranges, scaling, classes.

A file beside the model says it (`--inputs`). Without one a record is so many numbers as the model
has inputs, in a wide range: it can be asked all the same, but refuses less.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from codex_ray.config import load_yaml, validated
from codex_ray.errors import ConfigError
from codex_ray.serving.schema import Feature, Features, InputSchema
from codex_ray.types import Component


class Input(Component):
    """One input of a model: the range that is let in, and how it is scaled for the model."""

    name: str = Field(min_length=1, max_length=64, description="As people know it.")
    low: float = Field(description="The least that is let in.")
    high: float = Field(description="The most that is let in.")
    kind: Literal["number", "integer"] = Field(default="number", description="What it may be.")
    unit: str = Field(default="", max_length=64, description="For people.")
    centre: float = Field(default=0.0, description="Taken off before the model sees it.")
    scale: float = Field(default=1.0, gt=0, description="By which it is divided then.")

    @model_validator(mode="after")
    def _has_room(self) -> Input:
        if not self.low < self.high:
            raise ConfigError(f"inputs: {self.name}: low is not below high")
        return self


class Inputs(Component):
    """Every input in order, and the classes."""

    inputs: tuple[Input, ...] = Field(min_length=1, description="In the order of the model.")
    labels: tuple[str, ...] = Field(default=(), description="Names of the classes, from class 0.")

    def schema_for(self, shape: tuple[int, ...]) -> InputSchema:
        """What requests are held to, for records of that shape.

        Raises:
            ConfigError: the model takes another number of them.
        """
        if math.prod(shape) != len(self.inputs):
            raise ConfigError(
                f"inputs: {len(self.inputs)} of them, but the model takes records of shape "
                f"{list(shape)}: describe {math.prod(shape)}"
            )
        found = [Feature(it.name, it.low, it.high, it.kind, it.unit) for it in self.inputs]
        return InputSchema(tuple(found), shape)

    def scaled(self, records: Features) -> Features:
        """The records [n, ...] as the model was trained on them."""
        shape = (1, *records.shape[1:])
        centre = np.asarray([it.centre for it in self.inputs], np.float32).reshape(shape)
        scale = np.asarray([it.scale for it in self.inputs], np.float32).reshape(shape)
        return ((records - centre) / scale).astype(np.float32)


def read_inputs(file: Path) -> Inputs:
    """The inputs that a YAML or JSON file describes.

    Raises:
        ConfigError: it does not.
    """
    data = load_yaml(file)
    listed = data.get("inputs")
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
