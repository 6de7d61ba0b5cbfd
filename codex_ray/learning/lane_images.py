"""Convolutions and pools of images, with weights of their own in every lane.

A convolution is a product of matrices on patches of its input, for the places alone that are read:
a pool of two by two leaves the last row and column of an odd image unread, and then the layers
below need not make what only they would have read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Final, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from codex_ray.learning.lane_weights import LaneWeights, Weights
from codex_ray.learning.lanes import ATEN, Chunk, add_product, product, squared
from codex_ray.learning.spans import Spans, row_room

SHORT_RUN: Final = 16
"""Floats side by side in a patch, below which copying them costs more than the product does."""

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """What a convolution or a pool reads of an image.

    Attributes:
        size, stride, dilation, padding: as in torch, each (down, across).
        made: how many places are computed: those that somebody reads.
        read: height and width of the part of the image, without padding, that they read.
    """

    size: Pair
    stride: Pair
    dilation: Pair
    padding: Pair
    made: Pair
    read: Pair

    @property
    def span(self) -> Pair:
        """Height and width of what is read, padding included."""
        down, across = (
            (self.made[at] - 1) * self.stride[at] + (self.size[at] - 1) * self.dilation[at] + 1
            for at in range(2)
        )
        return down, across

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """The patches, a view [n, down, across, size, size, channels] of [n, h, w, channels]."""
        own, channels = image.stride(), image.shape[3]
        steps = [own[1 + at] * self.stride[at] for at in range(2)]
        inner = [own[1 + at] * self.dilation[at] for at in range(2)]
        return image.as_strided(
            (image.shape[0], *self.made, *self.size, channels),
            (own[0], *steps, *inner, own[3]),
            image.storage_offset(),
        )

    def padded(self, image: torch.Tensor) -> torch.Tensor:
        """What is read of an image [n, h, w, channels], with zeros around it."""
        span, (top, left) = self.span, self.padding
        image = image[:, : self.read[0], : self.read[1]]
        below, right = span[0] - top - self.read[0], span[1] - left - self.read[1]
        around = (0, 0, left, right, top, below)
        return functional.pad(image, around) if any(around) else image

    def unpadded(self, image: torch.Tensor) -> torch.Tensor:
        """The image without the zeros."""
        (top, left), (height, width) = self.padding, self.read
        return image[..., top : top + height, left : left + width, :]


class LaneConv:
    """A convolution, with its weight [lanes, size * size * channels, outputs]."""

    def __init__(self, layer: nn.Conv2d, chunk: Chunk, window: Window) -> None:
        self._chunk, self._window = chunk, window
        self._outputs, self._channels = layer.weight.shape[:2]
        self._inner = self._channels * prod(window.size)
        self.weights = LaneWeights(chunk, partial(self._weights, has_bias=layer.bias is not None))
        self._by_place = window.size[1] * self._channels < SHORT_RUN
        self._gradients: torch.Tensor | None = None

    def _weights(self, chunk: Chunk, *, has_bias: bool) -> Weights:
        """Room for the weights of a chunk."""
        weight = chunk.room(self._inner, self._outputs)
        in_order = weight.view(
            chunk.lanes, *self._window.size, self._channels, self._outputs
        ).permute(0, 4, 3, 1, 2)
        return Weights(weight, in_order, chunk.room(1, self._outputs) if has_bias else None)

    def forward(self, value: torch.Tensor, spans: Spans | None, *, first: bool) -> torch.Tensor:
        """[lanes, rows, height, width, outputs]."""
        chunk, window = self._chunk, self._window
        self._gradients, self._spans, self._first = None, spans, first
        self._image = window.padded(chunk.factor(value).flatten(0, 1))
        self._used, bias = self.weights.factor(first=first), self.weights.before(first=first).bias
        patches = window.cut(self._image)
        if self._by_place:  # patches [examples, inner, places], the weight repeated for each row
            self._patches = patches.permute(0, 3, 4, 5, 1, 2).flatten(4).flatten(1, 3)
            out = product(self._patches.mT, self._each(self._used))
            if bias is not None:
                out.add_(self._each(bias))
        else:  # patches [lanes, rows * places, inner]
            self._patches = self._side_by_side(patches)
            out = product(self._patches, self._used, bias, spans=spans, each=prod(window.made))
        return out.reshape(*value.shape[:2], *window.made, self._outputs)

    def _each(self, weights: torch.Tensor) -> torch.Tensor:
        """What every row has of its lane [lanes * rows, ...]."""
        if self._spans is not None:
            return weights.index_select(0, self._spans.lane_of)
        return weights.repeat_interleave(self._chunk.rows, 0)

    def _side_by_side(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [n, down, across, ...] as rows [lanes, rows * places, inner]."""
        if self._spans is None:
            return patches.reshape(self._chunk.lanes, -1, self._inner)
        rows = row_room(prod(patches.shape[:3]), self._inner, patches.dtype)
        rows.view(patches.shape).copy_(patches)
        return rows[None]

    def backward(self, delta: torch.Tensor, *, lowest: bool) -> torch.Tensor | None:
        """[lanes, rows, height, width, channels] for the part of the image that is read."""
        self._delta = delta
        if lowest:
            return None
        factor = self._chunk.factor(delta)
        if self._spans is not None:
            below = self._by_span(factor)
        else:
            below = self._by_lane(factor) if delta.is_cpu else self._by_patch(factor)
        return self._window.unpadded(below).float()

    def _by_lane(self, delta: torch.Tensor) -> torch.Tensor:
        """A transposed convolution for each lane: on a CPU faster than adding patches up."""
        images = self._image.view(*delta.shape[:2], *self._image.shape[1:])
        return torch.stack(self._transposed(delta, images))

    def _by_span(self, delta: torch.Tensor) -> torch.Tensor:
        """The same for lanes end to end; convolutions of nothing are left out."""
        assert self._spans is not None
        cut = self._spans.cut
        return torch.cat(self._transposed(cut(delta[0]), cut(self._image)))[None]

    def _transposed(
        self, delta: Iterable[torch.Tensor], images: Iterable[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The derivative by the images [rows, height, width, channels] of every lane with rows."""
        window = self._window
        weights = self._used.view(-1, *window.size, self._channels, self._outputs)
        return [
            ATEN.convolution_backward(
                lane.permute(0, 3, 1, 2), image.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1),
                None, window.stride, (0, 0), window.dilation, False, (0, 0), 1,
                (True, False, False),
            )[0].permute(0, 2, 3, 1)
            for lane, image, weight in zip(delta, images, weights, strict=True)
            if len(lane)
        ]  # fmt: skip

    def _by_patch(self, delta: torch.Tensor) -> torch.Tensor:
        """One product for all lanes, whose patches are added where they were cut."""
        window, lanes = self._window, delta.shape[0]
        patches = product(delta.flatten(1, 3), self._used.mT)
        patches = patches.reshape(-1, *window.made, *window.size, self._channels)
        below = torch.zeros(self._image.shape, device=delta.device)
        for down in range(window.size[0]):
            for across in range(window.size[1]):
                at = (down * window.dilation[0], across * window.dilation[1])
                rows = slice(
                    at[0], at[0] + (window.made[0] - 1) * window.stride[0] + 1, window.stride[0]
                )
                columns = slice(
                    at[1], at[1] + (window.made[1] - 1) * window.stride[1] + 1, window.stride[1]
                )
                below[:, rows, columns] += patches[:, :, :, down, across]
        return below.view(lanes, -1, *below.shape[1:])

    def descend(self, rate: float, factors: torch.Tensor | None) -> None:
        """One product of matrices in each lane, or a weighted sum of the rows' gradients."""
        delta, spans, out = self._delta, self._spans, self.weights.own.values
        before = self.weights.before(first=self._first).values
        if factors is None and not self._by_place:
            right = self._chunk.factor(delta).flatten(1, 3)
            add_product(
                before, self._patches, right,
                rate=-rate, out=out, spans=spans, each=prod(self._window.made),
            )  # fmt: skip
        elif spans is not None:
            factors = delta.new_ones(delta.shape[:2]) if factors is None else factors
            few = out.flatten(1)
            to = before.flatten(1) if self._first else few
            spans.add_weighted(to, self._made(), factors, rate=-rate, out=few)
        else:
            rows = self._made() if factors is None else self._made() * factors[:, :, None]
            torch.add(before, rows.sum(1).view(out.shape), alpha=-rate, out=out)
        rows = delta.sum((2, 3))
        rows = rows if factors is None else rows * factors[:, :, None]
        self.weights.descend_bias(rows, rate, spans, first=self._first)

    def _made(self) -> torch.Tensor:
        """The weight's gradient of each row [lanes, rows, inner * outputs]."""
        if self._gradients is None:
            examples = self._image.shape[0]
            delta = self._chunk.factor(self._delta).reshape(examples, -1, self._outputs)
            patches = self._patches
            if not self._by_place:
                patches = patches.view(examples, -1, self._inner).mT
            made = product(patches, delta)
            self._gradients = made.reshape(*self._delta.shape[:2], -1)
        return self._gradients

    def squared_norms(self) -> torch.Tensor:
        """Of the gradients, which are made for it."""
        squares = squared(self._made())
        if self.weights.own.bias is None:
            return squares
        return squares + squared(self._delta.sum((2, 3)))

    def forget(self, lost: torch.Tensor) -> None:
        """No derivative, and no gradient."""
        self._gradients = self._made().masked_fill(lost[:, :, None], 0)
        self._delta = self._delta.masked_fill(lost[:, :, None, None, None], 0)


class LanePool:
    """The largest value, or the mean, in each window of each channel."""

    def __init__(self, layer: nn.MaxPool2d | nn.AvgPool2d, window: Window) -> None:
        self._read = window.read
        self._largest = isinstance(layer, nn.MaxPool2d)
        self._options: tuple[object, ...] = (window.size, window.stride, window.padding)
        if isinstance(layer, nn.MaxPool2d):
            self._options += (window.dilation, layer.ceil_mode)
        else:
            self._options += (layer.ceil_mode, layer.count_include_pad, layer.divisor_override)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """[lanes, rows, height, width, channels]."""
        read = value[:, :, : self._read[0], : self._read[1]]
        self._image = read.flatten(0, 1).permute(0, 3, 1, 2)
        if self._largest:
            out, self._at = ATEN.max_pool2d_with_indices(self._image, *self._options)
        else:
            out = ATEN.avg_pool2d(self._image, *self._options)
        return _images(out, value.shape[0])

    def backward(self, delta: torch.Tensor) -> torch.Tensor:
        """The derivative goes to the first of the largest, or to all alike."""
        above = delta.flatten(0, 1).permute(0, 3, 1, 2)
        if self._largest:
            back = ATEN.max_pool2d_with_indices_backward
            return _images(back(above, self._image, *self._options, self._at), delta.shape[0])
        return _images(ATEN.avg_pool2d_backward(above, self._image, *self._options), delta.shape[0])


def _images(found: torch.Tensor, lanes: int) -> torch.Tensor:
    """[n, channels, h, w] as [lanes, rows, h, w, channels]."""
    images = found.permute(0, 2, 3, 1).contiguous()
    return images.view(lanes, -1, *images.shape[1:])
