"""A linear layer on vectors, with weights of its own in every lane."""

from __future__ import annotations

import torch
from torch import nn

from codex_ray.learning.lanes import Chunk, LaneWeights, add_product, product


class LaneLinear:
    """y = W x + b, with W [lanes, outputs, inputs].

    A row's gradient is the product of what went in and of the derivative by what came out, so that
    its norm is known, and the sum over rows is made, without making it (Goodfellow 2015).
    """

    def __init__(self, layer: nn.Linear, chunk: Chunk) -> None:
        outputs, inputs = layer.weight.shape
        weight = chunk.room(outputs, inputs)
        bias = None if layer.bias is None else chunk.room(1, outputs)
        self.weights = LaneWeights(weight, weight, bias)
        self._chunk = chunk

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, outputs]."""
        self._inputs = self._chunk.factor(value)
        self._used = self._chunk.factor(self.weights.values)
        return product(self._inputs, self._used.mT, self.weights.bias)

    def backward(self, delta: torch.Tensor, *, first: bool) -> torch.Tensor | None:
        """[lanes, rows, inputs]."""
        self._delta = delta
        return None if first else product(self._chunk.factor(delta), self._used)

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """One product of matrices in each lane, added to the weights where they are."""
        delta = self._delta if factors is None else self._delta * factors[:, :, None]
        left = self._chunk.factor(delta).mT
        add_product(self.weights.values, left, self._inputs, rate=-rate)
        self.weights.descend_bias(delta, rate)

    def squared_norms(self) -> torch.Tensor:
        """|inputs|^2 |delta|^2, and |delta|^2 for the bias."""
        squares = self._inputs.float().square().sum(2)
        squares = squares if self.weights.bias is None else squares + 1
        return self._delta.square().sum(2) * squares

    def forget(self, lost: torch.Tensor) -> None:
        """Both vectors are zero."""
        self._inputs = self._inputs.masked_fill(lost[:, :, None], 0)
        self._delta = self._delta.masked_fill(lost[:, :, None], 0)
