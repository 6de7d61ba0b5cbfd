"""Per-example gradients of a stack of common layers, without making them where that can be avoided.

A linear layer's gradient of one example is the product of two vectors that backpropagation has
anyway: what went in, and the loss's derivative by what came out. Its norm is the product of theirs,
and a weighted sum over the examples is one matrix product (Goodfellow 2015; "ghost clipping" and
"book-keeping", Bu et al. 2022). A convolution is a linear layer on patches: as an example has many
of them, its gradient is made, by a product of matrices.

All of it is true only while no layer mixes the examples of a batch, so only layers that are known
not to are taken; every other module goes through `per_record.PerRecord`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final, Protocol

import torch
from torch import nn
from torch.nn import functional

from codex_ray.learning.models import loss_sum

APART: Final = (
    nn.Identity, nn.Dropout,
    nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.LeakyReLU, nn.Softplus,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
"""Layers without parameters that treat every example of a batch by itself, whatever their options.
"""


class _Passage(Protocol):
    """How one layer's weight met the examples."""

    def squared_norms(self) -> torch.Tensor:
        """Of the weight's gradient and the bias' together [n]."""
        ...

    def without(self, lost: torch.Tensor) -> _Passage:
        """Zeros where an example is lost [n], in everything that its gradient is made of."""
        ...

    def weighted_sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """The weight's [o * k], then the bias' [o]."""
        ...

    def rows(self) -> list[torch.Tensor]:
        """The gradients of the weight [n, o * k], then of the bias [n, o]."""
        ...


@dataclass(frozen=True)
class _Once:
    """A weight used once for each example: its gradient is the product of two vectors.

    Attributes:
        inputs: what went in [n, k].
        delta: the derivative by what came out [n, o].
        bias: whether the layer adds one.
    """

    inputs: torch.Tensor
    delta: torch.Tensor
    bias: bool

    def squared_norms(self) -> torch.Tensor:
        """|inputs|^2 |delta|^2, and |delta|^2 for the bias."""
        squares = self.inputs.square().sum(1)
        return self.delta.square().sum(1) * (squares + 1 if self.bias else squares)

    def without(self, lost: torch.Tensor) -> _Once:
        """Both vectors are zero."""
        lost = lost[:, None]
        return _Once(self.inputs.masked_fill(lost, 0), self.delta.masked_fill(lost, 0), self.bias)

    def weighted_sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """One product of matrices."""
        weight = (self.delta * factors[:, None]).T @ self.inputs
        return [weight.flatten(), factors @ self.delta] if self.bias else [weight.flatten()]

    def rows(self) -> list[torch.Tensor]:
        """The products that the rest of the class does without."""
        weight = (self.delta[:, :, None] * self.inputs[:, None, :]).flatten(1)
        return [weight, self.delta] if self.bias else [weight]


@dataclass(frozen=True)
class _Often:
    """A weight used at many places of each example, as in a convolution: its gradient is made.

    Attributes:
        weight: gradients of the weight [n, o * k].
        shift: gradients of the bias [n, o]; None without one.
    """

    weight: torch.Tensor
    shift: torch.Tensor | None

    @classmethod
    def of(cls, inputs: torch.Tensor, delta: torch.Tensor, *, bias: bool) -> _Often:
        """The sums over l places of `delta` [n, o, l] times `inputs` [n, k, l]."""
        made = torch.bmm(delta, inputs.transpose(1, 2)).flatten(1)
        return cls(made, delta.sum(2) if bias else None)

    def squared_norms(self) -> torch.Tensor:
        """Of the weight's gradient and the bias' together [n]."""
        weight = self.weight.square().sum(1)
        return weight if self.shift is None else weight + self.shift.square().sum(1)

    def without(self, lost: torch.Tensor) -> _Often:
        """Zeros where an example is lost."""
        lost = lost[:, None]
        shift = None if self.shift is None else self.shift.masked_fill(lost, 0)
        return _Often(self.weight.masked_fill(lost, 0), shift)

    def weighted_sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """The weight's [o * k], then the bias' [o]."""
        return [factors @ part for part in self.rows()]

    def rows(self) -> list[torch.Tensor]:
        """The gradients of the weight [n, o * k], then of the bias [n, o]."""
        return [self.weight] if self.shift is None else [self.weight, self.shift]


@dataclass(frozen=True)
class Passages:
    """The gradients of n examples, as what went in and what came back at every layer."""

    layers: tuple[_Passage, ...]

    def squared_norms(self) -> torch.Tensor:
        """The layers' squared norms, added up [n]."""
        norms = [layer.squared_norms() for layer in self.layers]
        return sum(norms[1:], norms[0])

    def without(self, lost: torch.Tensor) -> Passages:
        """The same with a gradient of zero for each example in `lost` [n]."""
        return Passages(tuple(layer.without(lost) for layer in self.layers))

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """The sum [d] of the gradients times `factors` [n]."""
        return torch.cat([s for layer in self.layers for s in layer.weighted_sums(factors)])

    def rows(self) -> torch.Tensor:
        """The gradients themselves [n, d]."""
        return torch.cat([r for layer in self.layers for r in layer.rows()], dim=1)


class Layered:
    """Gradients of a stack of layers, from one pass forward and one back over the whole chunk."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers
        self._shapes = [p.shape for layer in layers for p in layer.parameters()]

    @classmethod
    def of(cls, module: nn.Module) -> Layered | None:
        """The kernel of a module; None if it is not such a stack, all of it trainable."""
        layers = list(_stack(module))
        parameters = [p for layer in layers for p in layer.parameters()]
        shared = len({id(p) for p in parameters}) < len(parameters)
        known = all(map(_is_known, layers)) and all(p.requires_grad for p in parameters)
        return cls(layers) if known and parameters and not shared else None

    def __call__(
        self, params: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> Passages:
        """The gradients at `params` [d] of n examples."""
        parts = torch.split(params, [prod(shape) for shape in self._shapes])
        weights = iter([p.view(s) for p, s in zip(parts, self._shapes, strict=True)])
        used: list[tuple[nn.Linear | nn.Conv2d, torch.Tensor, torch.Tensor]] = []
        with torch.enable_grad():
            value = features
            for layer in self._layers:
                if not isinstance(layer, nn.Linear | nn.Conv2d):
                    value = layer(value)
                    continue
                before = value
                value = _applied(layer, before, weights)
                if not value.requires_grad:
                    value.requires_grad_()
                used.append((layer, before.detach(), value))
            # Only derivatives by what came out of a layer are asked for: none by its weights.
            deltas = torch.autograd.grad(loss_sum(value, labels), [out for _, _, out in used])
        return Passages(
            tuple(
                _passage(layer, before, delta)
                for (layer, before, _), delta in zip(used, deltas, strict=True)
            )
        )


def _stack(module: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which they are applied; a module that is no stack is one layer."""
    if type(module) is nn.Sequential and not _hooked(module):
        for child in module:
            yield from _stack(child)
    else:
        yield module


def _hooked(layer: nn.Module) -> bool:
    """Whether something else happens when it is called, such as the older weight norm."""
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks
        or layer._backward_hooks or layer._backward_pre_hooks
    )  # fmt: skip


def _is_known(layer: nn.Module) -> bool:
    """Whether it is exactly a layer whose gradients are known here: a subclass may do anything."""
    if _hooked(layer):
        return False
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    if type(layer) is nn.Flatten:
        return layer.start_dim == 1
    if type(layer) is nn.Unflatten:
        return isinstance(layer.dim, int) and layer.dim > 0
    return type(layer) is nn.Linear or type(layer) in APART


def _applied(
    layer: nn.Linear | nn.Conv2d, value: torch.Tensor, weights: Iterator[torch.Tensor]
) -> torch.Tensor:
    """What the layer makes of `value`, with its next parameters from the flat vector."""
    weight = next(weights)
    bias = None if layer.bias is None else next(weights)
    if isinstance(layer, nn.Linear):
        return functional.linear(value, weight, bias)
    return functional.conv2d(value, weight, bias, layer.stride, layer.padding, layer.dilation)


def _passage(layer: nn.Linear | nn.Conv2d, before: torch.Tensor, delta: torch.Tensor) -> _Passage:
    """The layer's passage: a convolution is a linear layer on the patches of its input."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        if before.ndim == 2:
            return _Once(before, delta, bias)
        places = (x.flatten(1, -2).mT for x in (before, delta))
        return _Often.of(*places, bias=bias)
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding  # "valid"
    patches = functional.unfold(before, layer.kernel_size, layer.dilation, padding, layer.stride)
    return _Often.of(patches, delta.flatten(2), bias=bias)
