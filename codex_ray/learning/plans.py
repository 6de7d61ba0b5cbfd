"""How local training is computed, which is chosen once, before the first round, and then kept.

A plan says nothing about the science. Two plans differ in the last bits alone, but they do differ,
so every host, and a run that is resumed, goes by the plan that the run began with.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from pydantic import Field, model_validator

from codex_ray.types import Component

KernelName: TypeAlias = Literal["reference", "vectorised", "compiled"]
Precision: TypeAlias = Literal["float32", "bfloat16"]


class Plan(Component):
    """By which kernel clients are trained, and how many at a time."""

    kernel: KernelName = Field(
        default="reference",
        description="reference: one client at a time, by torch's own layers; vectorised: many in "
        "one program; compiled: the same through torch.compile.",
    )
    clients: int = Field(
        default=1, ge=1, le=4096, description="Clients trained at a time, a short chunk padded."
    )
    precision: Precision = Field(
        default="float32",
        description="In what type matrices are multiplied; parameters and sums are float32.",
    )
    device: str = Field(default="cpu", description="Where clients are trained: cpu, cuda, cuda:1.")

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.kernel == "reference" and (self.clients, self.precision) != (1, "float32"):
            raise ValueError(
                "the reference trains one client at a time in float32: set plan.kernel to "
                "vectorised, or leave plan.clients and plan.precision out"
            )
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"plan.device {self.device!r} is no device of torch") from error
        return self

    @property
    def on_gpu(self) -> bool:
        """Whether clients are trained on a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def product(self) -> torch.dtype:
        """The type in which matrices are multiplied."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


REFERENCE = Plan()
"""One client at a time: what every other plan must agree with."""
