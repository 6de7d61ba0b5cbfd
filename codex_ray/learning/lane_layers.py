"""The layers of a stack for many clients at once, forward and backward without autograd.

A chunk has `lanes`, one for each client, and `rows`, one for each record of a batch; values are
[lanes, rows, ...], and images [lanes, rows, height, width, channels], so that whatever is done to a
pixel reads its channels side by side. Every lane has weights of its own. No lane ever meets another,
and shapes are fixed, so what a lane computes does not depend on who is in the next one.

A convolution is a product of matrices on patches of its input, for the places alone that are read:
a pool of two by two leaves the last row and column of an odd image unread, and then the layers
below need not make them either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Final, Protocol

import torch
from torch import nn
from torch.nn import functional

ATEN: Final = torch.ops.aten
SHORT_RUN: Final = 16
"""Floats that lie side by side in a patch, below which patches are held place by place."""
VECTOR: Final = 64
"""A multiple of every vector width: the last few elements of a tensor are computed by other code,
whose functions differ in the last bit."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """The static shape of everything: how many clients, records in a batch, and where and how.

    Attributes:
        lanes: clients at a time.
        rows: records of a batch, the padding included.
        device: where the tensors are.
        product: the type in which matrices are multiplied; weights and sums are float32.
    """

    lanes: int
    rows: int
    device: torch.device
    product: torch.dtype = torch.float32

    def room(self, *shape: int) -> torch.Tensor:
        """A new float32 tensor [lanes, *shape], not yet filled."""
        return torch.empty((self.lanes, *shape), device=self.device)

    def factor(self, value: torch.Tensor) -> torch.Tensor:
        """The value as it enters a product."""
        return value.to(self.product)


class Layer(Protocol):
    """One layer without parameters."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """What comes out; the layer remembers what its backward pass needs."""
        ...

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The loss's derivative by what went in, from that by what came out."""
        ...


class Weighted(Protocol):
    """A layer with a weight and perhaps a bias in every lane."""

    size: int

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """What comes out; the layer remembers what its backward pass needs."""
        ...

    def backward(self, delta: torch.Tensor, *, first: bool) -> torch.Tensor | None:
        """The derivative by what went in; None for the first layer, below which nobody asks."""
        ...

    def load(self, params: torch.Tensor) -> None:
        """Every lane's weights from the layer's part of the parameters [size]."""
        ...

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """Weights less `params` [size] of some lanes, into `out` [lanes, size]."""
        ...

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """A step of `rate` down the sum of the rows' gradients, times `factors` [lanes, rows]."""
        ...

    def shift(self, by: torch.Tensor, rate: float) -> None:
        """Adds `rate` times `by` [lanes, size] to the weights."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """Of each row's gradient [lanes, rows]."""
        ...

    def forget(self, lost: torch.Tensor) -> None:
        """Zeros where a row is lost [lanes, rows], in everything that its gradient is made of."""
        ...


@dataclass(frozen=True)
class Bias:
    """The biases of one layer in every lane [lanes, 1, outputs]."""

    values: torch.Tensor
    ones: torch.Tensor  # [lanes, 1, rows]

    @classmethod
    def of(cls, chunk: Chunk, outputs: int) -> Bias:
        """Room for them."""
        ones = torch.ones((chunk.lanes, 1, chunk.rows), device=chunk.device)
        return cls(chunk.room(1, outputs), ones)

    def descend(self, rate: float, delta: torch.Tensor, factors: torch.Tensor | None) -> None:
        """A step down the sum over rows of `delta` [lanes, rows, outputs]."""
        weights = self.ones if factors is None else factors[:, None]
        self.values.baddbmm_(weights, delta, alpha=-rate)


class LaneLinear:
    """A linear layer on vectors: y = W x + b, with W [lanes, outputs, inputs]."""

    def __init__(self, layer: nn.Linear, chunk: Chunk) -> None:
        outputs, inputs = layer.weight.shape
        self._chunk = chunk
        self._weight = chunk.room(outputs, inputs)
        self._bias = None if layer.bias is None else Bias.of(chunk, outputs)
        self._split = outputs * inputs
        self.size = self._split + (0 if layer.bias is None else outputs)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, outputs]."""
        self._inputs = self._chunk.factor(value)
        weight = self._chunk.factor(self._weight)
        self._used = weight
        if self._bias is None:
            return torch.bmm(self._inputs, weight.mT).float()
        if weight.dtype == torch.float32:
            return torch.baddbmm(self._bias.values, self._inputs, weight.mT)
        return torch.bmm(self._inputs, weight.mT).float().add_(self._bias.values)

    def backward(self, delta: torch.Tensor, *, first: bool) -> torch.Tensor | None:
        """[lanes, rows, inputs]."""
        self._delta = delta
        return None if first else torch.bmm(self._chunk.factor(delta), self._used).float()

    def load(self, params: torch.Tensor) -> None:
        """Copies them into every lane."""
        self._weight.copy_(params[: self._split].view(self._weight.shape[1:]))
        if self._bias is not None:
            self._bias.values.copy_(params[self._split :])

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """In torch's own order, the weight before the bias."""
        weight, bias = out[:, : self._split], out[:, self._split :]
        torch.sub(self._weight[lanes].flatten(1), params[: self._split], out=weight)
        if self._bias is not None:
            torch.sub(self._bias.values[lanes, 0], params[self._split :], out=bias)

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """One product of matrices in each lane, added to the weights where they are."""
        delta = self._delta if factors is None else self._delta * factors[:, :, None]
        _add_product(self._weight, self._chunk.factor(delta).mT, self._inputs, rate=-rate)
        if self._bias is not None:
            self._bias.descend(rate, self._delta, factors)

    def shift(self, by: torch.Tensor, rate: float) -> None:
        """The weight's part and the bias's."""
        self._weight.add_(by[:, : self._split].view(self._weight.shape), alpha=rate)
        if self._bias is not None:
            self._bias.values[:, 0].add_(by[:, self._split :], alpha=rate)

    def squared_norms(self) -> torch.Tensor:
        """|inputs|^2 |delta|^2, and |delta|^2 for the bias (Goodfellow 2015)."""
        squares = self._inputs.float().square().sum(2)
        return self._delta.square().sum(2) * (squares if self._bias is None else squares + 1)

    def forget(self, lost: torch.Tensor) -> None:
        """Both vectors are zero."""
        self._inputs = self._inputs.masked_fill(lost[:, :, None], 0)
        self._delta = self._delta.masked_fill(lost[:, :, None], 0)


@dataclass(frozen=True)
class Window:
    """Where a convolution or a pool reads, along rows and columns of the image.

    Attributes:
        size, stride, dilation, padding: as in torch, each (down, across).
        made: how many places are computed: those that are read.
        read: the part of the image, without padding, that they read.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    made: tuple[int, int]
    read: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image that is read, padding included."""
        span = [
            (made - 1) * stride + (size - 1) * dilation + 1
            for made, stride, size, dilation in zip(
                self.made, self.stride, self.size, self.dilation, strict=True
            )
        ]
        return span[0], span[1]


class LaneConv:
    """A convolution, with its weight [lanes, window * channels, outputs]."""

    def __init__(self, layer: nn.Conv2d, chunk: Chunk, window: Window) -> None:
        outputs, channels = layer.weight.shape[:2]
        inner = channels * prod(window.size)
        self._chunk, self._window = chunk, window
        self._channels, self._outputs, self._inner = channels, outputs, inner
        self._weight = chunk.room(inner, outputs)
        self._bias = None if layer.bias is None else Bias.of(chunk, outputs)
        self._split = inner * outputs
        self.size = self._split + (0 if layer.bias is None else outputs)
        # Copying runs of a few floats is slower than the product that they go into.
        self._by_place = window.size[1] * channels < SHORT_RUN
        self._made: torch.Tensor | None = None

    @property
    def _examples(self) -> int:
        return self._chunk.lanes * self._chunk.rows

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, height, width, outputs]."""
        chunk, (height, width) = self._chunk, self._window.made
        self._image = image = self._padded(chunk.factor(value))
        self._patches = patches = self._cut(image)
        self._used = weight = chunk.factor(self._weight)
        self._made = None
        if self._by_place:  # patches [examples, inner, places]
            each = weight[:, None].expand(-1, chunk.rows, -1, -1).reshape(-1, *weight.shape[1:])
            out = torch.bmm(patches.mT, each).float().view(chunk.lanes, -1, self._outputs)
            out = out if self._bias is None else out.add_(self._bias.values)
        else:  # patches [lanes, rows * places, inner]
            out = _product(patches, weight, None if self._bias is None else self._bias.values)
        return out.view(chunk.lanes, chunk.rows, height, width, self._outputs)

    def _padded(self, value: torch.Tensor) -> torch.Tensor:
        """The part of the image that is read [examples, height, width, channels], with padding."""
        read, padded, (top, left) = self._window.read, self._window.padded, self._window.padding
        value = value[:, :, : read[0], : read[1]].flatten(0, 1)
        around = (0, 0, left, padded[1] - left - read[1], top, padded[0] - top - read[0])
        return functional.pad(value, around) if any(around) else value

    def _cut(self, image: torch.Tensor) -> torch.Tensor:
        """The patches that the window meets, copied side by side."""
        window, (down, across) = self._window, image.stride()[1:3]
        own, steps = image.stride(), window.stride
        places = (*window.made, *window.size, self._channels)
        strides = (
            down * steps[0], across * steps[1],
            down * window.dilation[0], across * window.dilation[1], own[3],
        )  # fmt: skip
        cut = image.as_strided((image.shape[0], *places), (own[0], *strides))
        if self._by_place:
            return cut.permute(0, 3, 4, 5, 1, 2).reshape(self._examples, self._inner, -1)
        return cut.reshape(self._chunk.lanes, -1, self._inner)

    def backward(self, delta: torch.Tensor, *, first: bool) -> torch.Tensor | None:
        """[lanes, rows, height, width, channels] for the part of the image that was read."""
        self._delta = delta
        if first:
            return None
        window = self._window
        each = (self._chunk.lanes, self._chunk.rows)
        weights = self._used.view(-1, *window.size, self._channels, self._outputs)
        image = self._image.view(*each, *self._image.shape[1:])
        delta = self._chunk.factor(delta)
        by_lane = [
            ATEN.convolution_backward(
                lane.permute(0, 3, 1, 2), seen.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1),
                None, window.stride, (0, 0), window.dilation, False, (0, 0), 1,
                (True, False, False),
            )[0].permute(0, 2, 3, 1)
            for lane, seen, weight in zip(delta, image, weights, strict=True)
        ]  # fmt: skip
        below = by_lane[0][None] if len(by_lane) == 1 else torch.stack(by_lane)
        (top, left), (height, width) = window.padding, window.read
        return below[:, :, top : top + height, left : left + width].float()

    def load(self, params: torch.Tensor) -> None:
        """Copies them into every lane, a window's channels side by side."""
        weight = params[: self._split].view(self._outputs, self._channels, -1)
        self._weight.view(self._chunk.lanes, -1, self._channels, self._outputs).copy_(
            weight.permute(2, 1, 0)
        )
        if self._bias is not None:
            self._bias.values.copy_(params[self._split :])

    def store(self, out: torch.Tensor, params: torch.Tensor, lanes: slice) -> None:
        """In torch's own order: outputs, channels, window, and then the bias."""
        torch.sub(
            self._in_order()[lanes].reshape(-1, self._split),
            params[: self._split],
            out=out[:, : self._split],
        )
        if self._bias is not None:
            bias = out[:, self._split :]
            torch.sub(self._bias.values[lanes, 0], params[self._split :], out=bias)

    def _in_order(self) -> torch.Tensor:
        """The weights as torch orders them [lanes, outputs, channels, window], a view."""
        weight = self._weight.view(self._chunk.lanes, -1, self._channels, self._outputs)
        return weight.permute(0, 3, 2, 1)

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """One product of matrices in each lane, or a weighted sum of the rows' gradients."""
        if factors is None and not self._by_place:
            delta = self._delta.reshape(self._chunk.lanes, -1, self._outputs)
            _add_product(self._weight, self._patches.mT, self._chunk.factor(delta), rate=-rate)
        else:
            weights = self._ones() if factors is None else factors[:, None]
            flat = self._weight.view(self._chunk.lanes, 1, -1)
            flat.baddbmm_(weights, self._gradients(), alpha=-rate)
        if self._bias is not None:
            self._bias.descend(rate, self._by_output(), factors)

    def _ones(self) -> torch.Tensor:
        return torch.ones((self._chunk.lanes, 1, self._chunk.rows), device=self._chunk.device)

    def _by_output(self) -> torch.Tensor:
        """The bias's gradient of each row [lanes, rows, outputs]."""
        return self._delta.sum((2, 3))

    def _gradients(self) -> torch.Tensor:
        """The weight's gradient of each row [lanes, rows, inner * outputs]."""
        if self._made is None:
            delta = self._chunk.factor(self._delta.reshape(self._examples, -1, self._outputs))
            patches = self._patches
            if not self._by_place:
                patches = patches.view(self._examples, -1, self._inner).mT
            made = torch.bmm(patches, delta).float()
            self._made = made.view(self._chunk.lanes, self._chunk.rows, -1)
        return self._made

    def shift(self, by: torch.Tensor, rate: float) -> None:
        """The weight's part and the bias's."""
        weight = self._in_order()
        weight.add_(by[:, : self._split].view(weight.shape), alpha=rate)
        if self._bias is not None:
            self._bias.values[:, 0].add_(by[:, self._split :], alpha=rate)

    def squared_norms(self) -> torch.Tensor:
        """Of the gradients, which are made for it."""
        squares = self._gradients().square().sum(2)
        return squares if self._bias is None else squares + self._by_output().square().sum(2)

    def forget(self, lost: torch.Tensor) -> None:
        """No derivative, and no gradient."""
        self._made = self._gradients().masked_fill(lost[:, :, None], 0)
        self._delta = self._delta.masked_fill(lost[:, :, None, None, None], 0)


class LanePool:
    """The largest value, or the mean, in each window of each channel."""

    def __init__(self, layer: nn.MaxPool2d | nn.AvgPool2d, window: Window) -> None:
        self._window = window
        self._largest = isinstance(layer, nn.MaxPool2d)
        self._options: tuple[object, ...]
        if isinstance(layer, nn.MaxPool2d):
            options = (window.size, window.stride, window.padding, window.dilation)
            self._options = (*options, layer.ceil_mode)
        else:
            self._options = (
                window.size, window.stride, window.padding,
                layer.ceil_mode, layer.count_include_pad, layer.divisor_override,
            )  # fmt: skip

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, height, width, channels]."""
        height, width = self._window.read
        self._image = value[:, :, :height, :width].flatten(0, 1).permute(0, 3, 1, 2)
        if self._largest:
            out, self._at = ATEN.max_pool2d_with_indices(self._image, *self._options)
        else:
            out = ATEN.avg_pool2d(self._image, *self._options)
        return out.permute(0, 2, 3, 1).contiguous().unflatten(0, value.shape[:2])

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The derivative goes to the first of the largest, or to all alike."""
        lanes = delta.shape[:2]
        delta = delta.flatten(0, 1).permute(0, 3, 1, 2)
        if self._largest:
            below = ATEN.max_pool2d_with_indices_backward(
                delta, self._image, *self._options, self._at
            )
        else:
            below = ATEN.avg_pool2d_backward(delta, self._image, *self._options)
        return below.permute(0, 2, 3, 1).contiguous().unflatten(0, lanes)


class LaneFlatten:
    """Images as vectors, in torch's own order: channels, height, width."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, channels * height * width]."""
        self._shape = value.shape
        return value.permute(0, 1, 4, 2, 3).flatten(2)

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, height, width, channels]."""
        lanes, rows, height, width, channels = self._shape
        image = delta.view(lanes, rows, channels, height, width)
        return image.permute(0, 1, 3, 4, 2).contiguous()


Forward = Callable[[torch.Tensor], torch.Tensor]
Backward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class LaneActivation:
    """A function of every element by itself, and its derivative."""

    def __init__(self, forward: Forward, backward: Backward, *, exact: bool) -> None:
        self._forward, self._backward, self._exact = forward, backward, exact

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The shape that went in."""
        self._before = value
        self._after = self._all(self._forward, value)
        return self._after

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The derivative, times `delta`."""
        return self._backward(delta, self._before, self._after)

    def _all(self, function: Forward, value: torch.Tensor) -> torch.Tensor:
        """The function of each element, by the same code for the last as for the first."""
        spare = -value.numel() % VECTOR
        if self._exact or not spare:
            return function(value)
        return function(functional.pad(value.flatten(), (0, spare)))[:-spare].view(value.shape)


def activation(layer: nn.Module) -> LaneActivation | None:
    """The layer's function and derivative; None if it is no activation that is known here."""
    if type(layer) is nn.ReLU:
        return LaneActivation(
            torch.relu, lambda d, x, y: ATEN.threshold_backward(d, y, 0), exact=True
        )
    if type(layer) is nn.LeakyReLU:
        slope = layer.negative_slope
        return LaneActivation(
            lambda x: ATEN.leaky_relu(x, slope),
            lambda d, x, y: ATEN.leaky_relu_backward(d, x, slope, False),
            exact=True,
        )
    if type(layer) is nn.Tanh:
        return LaneActivation(
            torch.tanh, lambda d, x, y: ATEN.tanh_backward(d, y), exact=False
        )
    if type(layer) is nn.Sigmoid:
        return LaneActivation(
            torch.sigmoid, lambda d, x, y: ATEN.sigmoid_backward(d, y), exact=False
        )
    return None


def _product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """left @ right + bias in each lane, float32."""
    if bias is None:
        return torch.bmm(left, right).float()
    if left.dtype == torch.float32:
        return torch.baddbmm(bias, left, right)
    return torch.bmm(left, right).float().add_(bias)


def _add_product(
    into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, rate: float
) -> None:
    """Adds rate * left @ right to `into` in each lane, in place, in float32."""
    if left.dtype == torch.float32:
        into.baddbmm_(left, right, alpha=rate)
    else:
        into.add_(torch.bmm(left, right), alpha=rate)
