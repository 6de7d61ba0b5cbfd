"""FedAdam: the server takes Adam steps along the released mean updates (Reddi et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from codex_ray.types import Component


class FedAdam(Component):
    """Adaptive federated optimisation, algorithm 2 with Adam's second moment.

    It sees what was released and nothing else, so it costs no privacy. There is no correction of
    the moments' start: the paper has none, and FLamby's strategy neither.
    """

    kind: Literal["fedadam"] = "fedadam"
    learning_rate: float = Field(default=0.1, gt=0, description="Server step, eta.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of the first moment, beta_1.")
    decay: float = Field(default=0.99, ge=0, lt=1, description="Of the second moment, beta_2.")
    floor: float = Field(default=1e-3, gt=0, description="Least adaptivity, tau.")

    def init(self, dimension: int) -> torch.Tensor:
        """Both moments [2, d], at rest."""
        return torch.zeros(2, dimension, dtype=torch.float64)

    def step(
        self, params: torch.Tensor, update: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """m <- b1 m + (1 - b1) u; v <- b2 v + (1 - b2) u^2; params + eta m / (sqrt(v) + tau)."""
        first, second = state
        update = update.double()
        first = self.momentum * first + (1 - self.momentum) * update
        second = self.decay * second + (1 - self.decay) * update**2
        moved = params.double() + self.learning_rate * first / (second.sqrt() + self.floor)
        return moved.float(), torch.stack([first, second])
