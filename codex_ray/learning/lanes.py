"""What the layers of many clients at once are made of: lanes, their products, and simple layers.

A chunk has `lanes`, one for each client, and `rows`, one for each record of a batch. Values are
[lanes, rows, ...], and images [lanes, rows, height, width, channels], so that whatever is done to a
pixel reads its channels side by side. Every lane has weights of its own. No lane ever meets
another, and shapes are fixed, so what a lane computes does not depend on who is in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Protocol

import torch
from torch import nn
from torch.nn import functional

from codex_ray.learning.spans import ALIGNED, Spans

ATEN: Final = torch.ops.aten
LIBRARY: Final = 16**3
"""Multiplications of a product in bfloat16 up to which torch does it by itself."""
VECTOR: Final = 64
"""A multiple of every vector width: the last few elements of a tensor are computed by other code,
whose functions differ in the last bit."""


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
        """A float32 tensor [lanes, *shape] of zeros, whose lanes are aligned."""
        return aligned_room((self.lanes, *shape), torch.float32, self.device).zero_()

    def factor(self, value: torch.Tensor) -> torch.Tensor:
        """The value as it enters a product."""
        return aligned(value.to(self.product))


def aligned_room(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of that shape, not yet filled, with every entry of its first axis aligned."""
    step, size = ALIGNED // dtype.itemsize, prod(shape[1:])
    room = torch.empty((shape[0], -(-size // step) * step), dtype=dtype, device=device)
    return room[:, :size].view(shape)


def aligned(value: torch.Tensor) -> torch.Tensor:
    """The same numbers, every entry of the first axis aligned: a copy only if they are not."""
    if value.shape[0] == 1 or value.stride(0) * value.itemsize % ALIGNED == 0:
        return value
    return aligned_room(value.shape, value.dtype, value.device).copy_(value)


def product(
    left: torch.Tensor,
    right: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    spans: Spans | None = None,
    each: int = 1,
) -> torch.Tensor:
    """left @ right + bias for each entry of the first axis, in float32, aligned.

    With `spans` there are lanes in `right` and in `bias` alone, and `left` has their rows.
    """
    if spans is not None:
        return spans.product(left, right, bias, each=each)
    left, right = map(aligned, _wide_if_small(left, right))
    shape = (left.shape[0], left.shape[1], right.shape[2])
    if left.dtype != torch.float32:
        out = torch.bmm(left, right).float()
        return out if bias is None else out.add_(bias)
    out = aligned_room(shape, left.dtype, left.device)
    if bias is None:
        return torch.bmm(left, right, out=out)
    return out.copy_(bias).baddbmm_(left, right)


def add_product(
    to: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    *,
    rate: float,
    out: torch.Tensor,
    spans: Spans | None = None,
    each: int = 1,
) -> None:
    """Puts `to` + rate * left^T @ right of each entry into the aligned `out`, in float32.

    `to` may be `out`, or what all lanes share.
    """
    if spans is not None:
        spans.add_product(to, left, right, rate=rate, out=out, each=each)
        return
    left, right = map(aligned, _wide_if_small(left, right))
    left = left.mT
    if left.dtype == torch.float32:
        torch.baddbmm(to, left, right, alpha=rate, out=out)
    else:
        torch.add(to, torch.bmm(left, right), alpha=rate, out=out)


def _wide_if_small(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors, in float32 where a CPU would choose by all lanes together how to multiply them.

    Torch has a library multiply in bfloat16 where that is large enough, of all entries together,
    and rounds otherwise where it does not.
    """
    small = left.shape[1] * left.shape[2] * right.shape[2] <= LIBRARY
    if left.dtype == torch.float32 or not left.is_cpu or not small:
        return left, right
    return left.float(), right.float()


def squared(value: torch.Tensor) -> torch.Tensor:
    """The squared norm of each row [lanes, rows, n], by one pass."""
    norms: torch.Tensor = torch.linalg.vector_norm(value, dim=2)
    return norms.square_()


def by_element(
    function: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor
) -> torch.Tensor:
    """The function of every element, by the same code for the last as for the first.

    Nor may it matter whether lanes and rows lie apart, which torch has other code for.
    """
    flat = value.contiguous().view(-1)
    spare = -flat.numel() % VECTOR
    if spare:
        flat = functional.pad(flat, (0, spare))
    return function(flat)[: value.numel()].view(value.shape)


class Layer(Protocol):
    """One layer without parameters."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """What comes out; the layer remembers what its backward pass needs."""
        ...

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The loss's derivative by what went in, from that by what came out."""
        ...


class LaneFlatten:
    """Images as vectors, in torch's own order: channels, height, width."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, channels * height * width]."""
        self._shape = value.shape
        return value if value.ndim == 3 else value.permute(0, 1, 4, 2, 3).flatten(2)

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The shape that went in."""
        if len(self._shape) == 3:
            return delta
        lanes, rows, height, width, channels = self._shape
        image = delta.view(lanes, rows, channels, height, width)
        return image.permute(0, 1, 3, 4, 2).contiguous()


Forward = Callable[[torch.Tensor], torch.Tensor]
Backward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class LaneActivation:
    """A function of every element by itself, and its derivative.

    Attributes:
        function: of what went in.
        derivative: of `delta`, what went in and what came out.
        exact: whether every element has the same bits, wherever in the tensor it is.
    """

    function: Forward
    derivative: Backward
    exact: bool = False

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The shape that went in."""
        self._before = value
        self._after = self.function(value) if self.exact else by_element(self.function, value)
        return self._after

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The derivative, times `delta`."""
        return self.derivative(delta, self._before, self._after)


def activation(layer: nn.Module) -> LaneActivation | None:
    """The layer's function and derivative; None if it is no activation that is known here."""
    if type(layer) is nn.ReLU:
        return LaneActivation(
            torch.relu, lambda d, x, y: ATEN.threshold_backward(d, y, 0), exact=True
        )
    if type(layer) is nn.LeakyReLU:
        slope = layer.negative_slope
        return LaneActivation(
            lambda x: functional.leaky_relu(x, slope),
            lambda d, x, y: ATEN.leaky_relu_backward(d, x, slope, False),
            exact=True,
        )
    if type(layer) is nn.Tanh:
        return LaneActivation(torch.tanh, lambda d, x, y: ATEN.tanh_backward(d, y))
    if type(layer) is nn.Sigmoid:
        return LaneActivation(torch.sigmoid, lambda d, x, y: ATEN.sigmoid_backward(d, y))
    return None
