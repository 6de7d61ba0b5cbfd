"""How local training is computed, which is chosen once, before the first round, and then kept.

A plan says nothing about the science. Two plans differ in the last bits alone, but they do differ,
so every host, and a run that is resumed, goes by the plan that the run began with.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import torch
from pydantic import Field, model_validator

from codex_ray.types import Component

KernelName: TypeAlias = Literal["reference", "vectorised", "compiled"]
Precision: TypeAlias = Literal["float32", "bfloat16"]


SHAPES: Final = 8
"""How many sizes chunks come in on a CPU: each keeps room for itself."""


class Plan(Component):
    """By which kernel clients are trained, and how many at a time."""

    kernel: KernelName = Field(
        default="reference",
        description="reference: one client at a time, by torch's own layers; vectorised: many in "
        "one program; compiled: local epochs through torch.compile.",
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
    def part(self) -> int:
        """Of how many clients a chunk can be made up, without that any of it is padding."""
        return self.part_of(self.clients)

    def part_of(self, lanes: int) -> int:
        """The same where so many are trained at a time.

        On a CPU each lane's products are calls of their own, so a short chunk can have fewer lanes;
        but never one, where two would do: the products of a single lane go another way through
        torch. On a GPU every chunk has all of them.
        """
        if torch.device(self.device).type != "cpu":
            return lanes
        return min(lanes, max(2, lanes // SHAPES))

    @property
    def product(self) -> torch.dtype:
        """The type in which matrices are multiplied."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


REFERENCE = Plan()
"""One client at a time: what every other plan must agree with."""
