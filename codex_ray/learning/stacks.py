"""Local steps of a stack of common layers for a chunk of clients at once, without autograd.

What each layer does for many clients is known layer by layer (`lanes`, `lane_linear`,
`lane_images`). Modules that are no such stack, or that draw at random in training, have other
kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from codex_ray.learning.clipped_sums import clip_factors
from codex_ray.learning.lane_images import LaneConv, LanePool, Window
from codex_ray.learning.lane_linear import LaneLinear
from codex_ray.learning.lane_weights import WeightedLayer
from codex_ray.learning.lanes import Chunk, LaneFlatten, Layer, activation, by_element
from codex_ray.learning.layered import _hooked, _is_known, _stack
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch

WINDOWED: Final = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d


class Stack:
    """A module that is a stack of layers, each of which is known here.

    Attributes:
        layers: in the order in which they are applied, with pools before activations that they
            commute with.
        windows: for each convolution and pool, what it reads.
    """

    def __init__(self, layers: Sequence[nn.Module], windows: Sequence[Window | None]) -> None:
        self.layers, self.windows = tuple(layers), tuple(windows)

    @classmethod
    def of(cls, module: nn.Module, example: Sequence[int]) -> Stack | None:
        """The stack that a module is for records of shape `example`; None if it is none."""
        layers = [layer for layer in _stack(module) if type(layer) is not nn.Identity]
        parameters = [p for layer in layers for p in layer.parameters()]
        shared = len({id(p) for p in parameters}) < len(parameters)
        if shared or not all(p.requires_grad for p in parameters) or not parameters:
            return None
        if _hooked(module) or not all(map(_is_known, layers)) or not all(map(_is_lane, layers)):
            return None
        layers = _pools_first(layers)
        windows = _windows(layers, tuple(example))
        return None if windows is None else cls(layers, windows)

    @property
    def exact(self) -> bool:
        """Layers treat every record by itself, so batches may be padded."""
        return False

    @property
    def joined(self) -> int:
        """Every step is a program by itself."""
        return 1

    @property
    def uneven(self) -> bool:
        """Lanes may have rows of their own number."""
        return True

    @property
    def held(self) -> int:
        """How many parameters have a gradient for each row in a clipped step: convolutions'."""
        convolutions = (layer for layer in self.layers if isinstance(layer, nn.Conv2d))
        return sum(layer.weight.numel() for layer in convolutions)

    def lanes(self, plan: Plan) -> int:
        """As many as the plan says."""
        return plan.clients

    def steps(self, chunk: Chunk) -> StackSteps:
        """Room for a chunk of clients."""
        return StackSteps(self, chunk)


class StackSteps:
    """The weights of a chunk of clients, and steps that change them in place."""

    def __init__(self, stack: Stack, chunk: Chunk) -> None:
        self._chunk = chunk
        self._layers: list[Layer | LaneLinear | LaneConv] = []
        for layer, window in zip(stack.layers, stack.windows, strict=True):
            self._layers.append(_made(layer, window, chunk))
        self._weighted: list[WeightedLayer] = [
            layer for layer in self._layers if isinstance(layer, LaneLinear | LaneConv)
        ]
        self._sizes = [layer.weights.size for layer in self._weighted]
        shaping = [la for la in stack.layers if isinstance(la, nn.Linear | nn.Flatten | WINDOWED)]
        self._images = isinstance(shaping[0], WINDOWED)

    @property
    def memory(self) -> list[torch.Tensor]:
        """The weights and biases of every layer."""
        own = [layer.weights.own for layer in self._weighted]
        parts = [part for one in own for part in (one.values, one.bias)]
        return [part for part in parts if part is not None]

    def load(self, params: torch.Tensor) -> None:
        """Every lane starts from `params` [d], which are copied once for all of them."""
        for layer, part in zip(self._weighted, torch.split(params, self._sizes), strict=True):
            layer.weights.load(part)

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [d] of some lanes, into `out` [lanes, d]."""
        parts = zip(
            self._weighted,
            torch.split(out, self._sizes, 1),
            torch.split(params, self._sizes),
            strict=True,
        )
        for layer, rows, start in parts:
            layer.weights.store(rows, start, lanes)

    def descend(self, batch: LaneBatch, *, rate: float, first: bool) -> None:
        """A step down the sum of the rows' losses, times their weights."""
        if not batch.labels.numel():
            self._stay(first)
            return
        self._backward(batch, first)
        for layer in self._weighted:
            layer.descend(rate, None)

    def descend_clipped(
        self, batch: LaneBatch, *, rate: float, clip_norm: float, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step down the sum of the clipped gradients of the rows that are there.

        Returns how many rows of each lane were clipped, and how many were lost, because their
        gradient is not finite [lanes] each.
        """
        if not batch.labels.numel():
            self._stay(first)
            none = batch.count(batch.weights > 0)
            return none, none
        self._backward(batch, first)
        norms = self._squared_norms().sqrt()
        lost: torch.Tensor | None = None
        if not norms.is_cpu or not math.isfinite(float(norms.sum())):
            lost = ~torch.isfinite(norms)
            for layer in self._weighted:
                layer.forget(lost)
            norms = norms.masked_fill(lost, 0)
        factors = clip_factors(norms, clip_norm)
        for layer in self._weighted:
            layer.descend(rate, factors)
        clipped = batch.count(norms > clip_norm)
        if lost is None:
            return clipped, torch.zeros_like(clipped)
        return clipped, batch.count(lost & (batch.weights > 0))

    def shift(self, by: torch.Tensor, *, rate: float) -> None:
        """Adds `rate` times `by` [lanes, d] to the weights."""
        for layer, part in zip(self._weighted, torch.split(by, self._sizes, 1), strict=True):
            layer.weights.shift(part, rate)

    def _squared_norms(self) -> torch.Tensor:
        norms = [layer.squared_norms() for layer in self._weighted]
        return sum(norms[1:], norms[0])

    def _stay(self, first: bool) -> None:
        """A step without any record."""
        if first:
            for layer in self._weighted:
                layer.weights.stay()

    def _backward(self, batch: LaneBatch, first: bool) -> None:
        """Leaves in every layer what its gradients are made of."""
        features = batch.features
        value = features.permute(0, 1, 3, 4, 2) if self._images else features.flatten(2)
        for layer in self._layers:
            if isinstance(layer, LaneLinear | LaneConv):
                value = layer.forward(value, batch.spans, first=first)
            else:
                value = layer.forward(value)
        delta: torch.Tensor | None = loss_delta(value, batch.labels, batch.weights)
        lowest = self._weighted[0]
        for layer in reversed(self._layers):
            assert delta is not None
            if isinstance(layer, LaneLinear | LaneConv):
                delta = layer.backward(delta, lowest=layer is lowest)
                if layer is lowest:
                    return
            else:
                delta = layer.backward(delta)


def loss_delta(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The derivative of the weighted sum of losses by logits [lanes, rows, outputs]."""
    if logits.shape[2] == 1:
        delta = by_element(torch.sigmoid, logits).sub_(labels[:, :, None])
    else:
        delta = torch.softmax(logits, 2)
        # minus one at the label
        delta.scatter_add_(2, labels[:, :, None], -torch.ones_like(delta[:, :, :1]))
    return delta.mul_(weights[:, :, None])


def _is_lane(layer: nn.Module) -> bool:
    """Whether there is a lane layer for it."""
    known = (nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten)
    if isinstance(layer, nn.MaxPool2d) and layer.return_indices:
        return False
    if isinstance(layer, nn.Flatten):
        return layer.end_dim == -1
    return isinstance(layer, known) or activation(layer) is not None


def _pools_first(layers: list[nn.Module]) -> list[nn.Module]:
    """The same function with the largest taken before a ReLU, which then has less to do.

    Both keep the order of numbers, so either order gives the same values and derivatives.
    """
    layers = list(layers)
    for at in range(len(layers) - 1):
        if type(layers[at]) is nn.ReLU and type(layers[at + 1]) is nn.MaxPool2d:
            layers[at], layers[at + 1] = layers[at + 1], layers[at]
    return layers


def _pair(value: int | tuple[int, ...] | str) -> tuple[int, int]:
    """Down and across."""
    if isinstance(value, str):  # "valid"
        return 0, 0
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _windows(layers: Sequence[nn.Module], shape: tuple[int, ...]) -> list[Window | None] | None:
    """What each convolution and pool reads; None if the layers do not fit as lanes do.

    Once down to learn the shapes, once up to learn what is read of them.
    """
    shapes = []
    for layer in layers:
        shapes.append(shape)
        with torch.no_grad():
            shape = tuple(layer(torch.zeros((1, *shape))).shape[1:])
        if isinstance(layer, nn.Linear) and len(shapes[-1]) != 1:
            return None
        if isinstance(layer, WINDOWED) and len(shapes[-1]) != 3:
            return None
    if len(shape) != 1:
        return None
    outs = [*shapes[1:], shape]
    found: list[Window | None] = []
    read: tuple[int, int] | None = None  # of what the layer gives; None for all of it
    for layer, before, after in zip(
        reversed(layers), reversed(shapes), reversed(outs), strict=True
    ):
        if isinstance(layer, nn.Linear | nn.Flatten):
            found.append(None)
            read = None
        elif isinstance(layer, WINDOWED):
            window = _window(layer, before[1:], read or after[1:])
            found.append(window)
            read = window.read
        else:
            found.append(None)
    return found[::-1]


def _window(
    layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, image: tuple[int, ...], made: tuple[int, ...]
) -> Window:
    """What the layer reads of an image of that size to make so many places."""
    size, padding = _pair(layer.kernel_size), _pair(layer.padding)
    stride = _pair(layer.stride)
    dilation = (1, 1) if isinstance(layer, nn.AvgPool2d) else _pair(layer.dilation)
    last = [
        (made[at] - 1) * stride[at] + (size[at] - 1) * dilation[at] + 1 - padding[at]
        for at in range(2)
    ]
    read = tuple(min(image[at], last[at]) for at in range(2))
    if not isinstance(layer, nn.Conv2d) and (any(padding) or layer.ceil_mode):
        read = image[:2]  # torch itself pads, and needs to see where the image ends
    return Window(size, stride, dilation, padding, (made[0], made[1]), (read[0], read[1]))


def _made(layer: nn.Module, window: Window | None, chunk: Chunk) -> Layer | LaneLinear | LaneConv:
    """The lane layer that does what `layer` does."""
    if isinstance(layer, nn.Linear):
        return LaneLinear(layer, chunk)
    if isinstance(layer, nn.Conv2d):
        assert window is not None
        return LaneConv(layer, chunk, window)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        assert window is not None
        return LanePool(layer, window)
    found = LaneFlatten() if isinstance(layer, nn.Flatten) else activation(layer)
    assert found is not None
    return found
