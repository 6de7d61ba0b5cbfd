"""A linear layer on vectors, with weights of its own in every lane."""

from __future__ import annotations

import torch
from torch import nn

from codex_ray.learning.lane_weights import LaneWeights, Weights
from codex_ray.learning.lanes import Chunk, add_product, product, squared
from codex_ray.learning.spans import Spans


class LaneLinear:
    """y = W x + b, with W [lanes, outputs, inputs].

    A row's gradient is the product of what went in and of the derivative by what came out, so that
    its norm is known, and the sum over rows is made, without making it (Goodfellow 2015).
    """

    def __init__(self, layer: nn.Linear, chunk: Chunk) -> None:
        outputs, inputs = layer.weight.shape

        def room(chunk: Chunk) -> Weights:
            weight = chunk.room(outputs, inputs)
            return Weights(weight, weight, None if layer.bias is None else chunk.room(1, outputs))

        self.weights = LaneWeights(chunk, room)
        self._chunk = chunk

    def forward(self, value: torch.Tensor, spans: Spans | None, *, first: bool) -> torch.Tensor:
        """[lanes, rows, outputs]."""
        self._spans, self._first = spans, first
        self._inputs = self._chunk.factor(value)
        self._used = self.weights.factor(first=first)
        bias = self.weights.before(first=first).bias
        return product(self._inputs, self._used.mT, bias, spans=spans)

    def backward(self, delta: torch.Tensor, *, lowest: bool) -> torch.Tensor | None:
        """[lanes, rows, inputs]."""
        self._delta = delta
        if lowest:
            return None
        return product(self._chunk.factor(delta), self._used, spans=self._spans)

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """One product of matrices in each lane, added to the weights where they are.

        With factors it is taken in float32: rounding would lengthen what was clipped, and a sum
        that is rounded moves further with a record than the record itself is long.
        """
        if factors is None:
            delta, inputs = self._delta, self._inputs
            left = self._chunk.factor(delta)
        else:
            left = delta = self._delta * factors[:, :, None]
            inputs = self._inputs.float()
        before, own = self.weights.before(first=self._first), self.weights.own
        add_product(before.values, left, inputs, rate=-rate, out=own.values, spans=self._spans)
        self.weights.descend_bias(delta, rate, self._spans, first=self._first)

    def squared_norms(self) -> torch.Tensor:
        """|inputs|^2 |delta|^2, and |delta|^2 for the bias."""
        squares = squared(self._inputs.float())
        squares = squares if self.weights.own.bias is None else squares + 1
        return squared(self._delta) * squares

    def forget(self, lost: torch.Tensor) -> None:
        """Both vectors are zero."""
        self._inputs = self._inputs.masked_fill(lost[:, :, None], 0)
        self._delta = self._delta.masked_fill(lost[:, :, None], 0)
