"""How the server moves the global parameters along a released mean update."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field

from codex_ray.types import Component


class Algorithm(Protocol):
    """The plug-in point: a pure step, state in and state out."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    def init(self, dimension: int) -> torch.Tensor:
        """The optimiser state before round 0."""
        ...

    def step(
        self, params: torch.Tensor, update: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(parameters, state) after one released update."""
        ...


class FedAvg(Component):
    """Federated averaging with a server step and momentum (FedAvgM, Hsu et al. 2019)."""

    kind: Literal["fedavg"] = "fedavg"
    learning_rate: float = Field(
        default=1.0, gt=0, description="Server step along the mean update."
    )
    momentum: float = Field(
        default=0.0, ge=0, lt=1, description="Server momentum; 0 is plain FedAvg."
    )

    def init(self, dimension: int) -> torch.Tensor:
        """The velocity [d], at rest."""
        return torch.zeros(dimension, dtype=torch.float64)

    def step(
        self, params: torch.Tensor, update: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """v <- momentum v + update; params <- params + learning_rate v, in float64 rounded once."""
        velocity = self.momentum * state + update
        return (params.double() + self.learning_rate * velocity).float(), velocity
