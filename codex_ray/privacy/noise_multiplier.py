"""The field that all private components share: how much noise, or `auto` for what it takes."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, WithJsonSchema

AUTO: Final = "auto"
"""In a file: the least noise with which the run keeps its budget, solved for before it begins."""

NoiseMultiplier = Annotated[
    float,
    Field(gt=0),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": AUTO}]}),
]
"""A standard deviation in units of the clip norm."""
