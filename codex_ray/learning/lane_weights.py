"""The weights of one layer in every lane: shared until the first step is done, and then its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from codex_ray.learning.lanes import Chunk
from codex_ray.learning.spans import Spans


@dataclass(frozen=True)
class Weights:
    """One layer's weight and bias, of every lane or of one.

    Attributes:
        values: the weight as the layer multiplies it [lanes, ...].
        in_order: the same memory as torch orders the module's own weight [lanes, ...].
        bias: [lanes, 1, outputs], or None.
    """

    values: torch.Tensor
    in_order: torch.Tensor
    bias: torch.Tensor | None

    def copy(self, other: Weights) -> None:
        """The same as another's, or as what all lanes share."""
        self.values.copy_(other.values)
        if self.bias is not None and other.bias is not None:
            self.bias.copy_(other.bias)

    def shared(self, lanes: int) -> Weights:
        """Those of one lane as if so many lanes had them, without a copy."""

        def each(one: torch.Tensor) -> torch.Tensor:
            return one.expand(lanes, *one.shape[1:])

        bias = None if self.bias is None else each(self.bias)
        return Weights(each(self.values), each(self.in_order), bias)


class LaneWeights:
    """One layer's weights: where lanes start, which they share, and what each makes of it.

    The first step reads what is shared, and what it makes is the first that a lane has of its own.
    """

    def __init__(self, chunk: Chunk, make: Callable[[Chunk], Weights]) -> None:
        """`make` makes room for the layer's weights in a chunk."""
        self._chunk, self.own = chunk, make(chunk)
        self._start = make(replace(chunk, lanes=1))
        self._shared = self._start.shared(chunk.lanes)
        self._split = self.own.values[0].numel()
        bias = self.own.bias
        self.size = self._split + (0 if bias is None else bias.shape[2])
        """How many parameters a lane has here."""

    def before(self, *, first: bool) -> Weights:
        """What a step starts from: at the `first` what all lanes share."""
        return self._shared if first else self.own

    def factor(self, *, first: bool) -> torch.Tensor:
        """The same weight as it enters a product [lanes, ...]."""
        if not first:
            return self._chunk.factor(self.own.values)
        return self._chunk.factor(self._start.values).expand(self.own.values.shape)

    def load(self, params: torch.Tensor) -> None:
        """Lanes start from `params` [size]."""
        start = self._start
        start.in_order.copy_(params[: self._split].view(start.in_order.shape))
        if start.bias is not None:
            start.bias.copy_(params[self._split :])

    def stay(self) -> None:
        """Every lane has what all of them share: a first step that does nothing."""
        self.own.copy(self._shared)

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """The weights of some lanes less `params` [size], into `out` [lanes, size]."""
        weight = self.own.in_order[lanes].reshape(-1, self._split)
        torch.sub(weight, params[: self._split], out=out[:, : self._split])
        if self.own.bias is not None:
            torch.sub(self.own.bias[lanes, 0], params[self._split :], out=out[:, self._split :])

    def shift(self, by: torch.Tensor, rate: float) -> None:
        """Adds `rate` times `by` [lanes, size]."""
        self.own.in_order.add_(by[:, : self._split].view(self.own.in_order.shape), alpha=rate)
        if self.own.bias is not None:
            self.own.bias[:, 0].add_(by[:, self._split :], alpha=rate)

    def descend_bias(
        self, delta: torch.Tensor, rate: float, spans: Spans | None, *, first: bool
    ) -> None:
        """A step down the sum over rows of `delta` [lanes, rows, outputs]."""
        own, before = self.own.bias, self.before(first=first).bias
        if own is None or before is None:
            return
        if spans is None:
            torch.add(before, delta.sum(1, keepdim=True), alpha=-rate, out=own)
            return
        if first:
            own.copy_(before)
        spans.add_sums(own[:, 0], delta, rate=-rate)


class WeightedLayer(Protocol):
    """A layer with a weight and perhaps a bias in every lane."""

    weights: LaneWeights

    def forward(self, value: torch.Tensor, spans: Spans | None, *, first: bool) -> torch.Tensor:
        """What comes out; the layer remembers what its gradients are made of.

        At the first step lanes share their weights.
        """
        ...

    def backward(self, delta: torch.Tensor, *, lowest: bool) -> torch.Tensor | None:
        """The derivative by what went in; None for the lowest layer, below which nobody asks."""
        ...

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """A step of `rate` down the sum of the rows' gradients, times `factors` [lanes, rows]."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """Of each row's gradient [lanes, rows]."""
        ...

    def forget(self, lost: torch.Tensor) -> None:
        """Zeros where a row is lost [lanes, rows], in everything that its gradient is made of."""
        ...
