"""One record moves a sum of clipped gradients by the clip norm at most, in every precision."""

from __future__ import annotations

import pytest
import torch
from lane_cases import PRIVATE, SIDE, Residual, cnn, linear, logistic, mlp, odd_cnn, reference

from codex_ray.learning.epochs import EpochSteps
from codex_ray.learning.kernels import lane_kernel
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch, Spans

CLIP = 0.01
RATE = 2.0**20
"""Of a step, so large that the weights before it are nothing beside the sum."""
ROUNDING = 3e-4
"""Of the clip norm: what float32 may do to a sum of 256."""


def batches(image: torch.Tensor, rows: int, *, lanes: int, end_to_end: bool) -> list[LaneBatch]:
    """`rows` times that image, and once less, in two lanes or one after the other."""
    there = torch.ones((2, rows))
    there[1, rows - 1] = 0
    features = image.expand(2, rows, 1, SIDE, SIDE) * there[:, :, None, None, None]
    whole = (features, torch.ones((2, rows), dtype=torch.int64), there)
    if end_to_end:
        return [LaneBatch(*(part.flatten(0, 1)[None] for part in whole), Spans.of((rows, rows)))]
    return [LaneBatch(*few) for few in zip(*(part.split(lanes) for part in whole), strict=True)]


def taken(steps, batch: LaneBatch):
    """A step without noise, as a program of its own where steps are compiled."""
    if not isinstance(steps, EpochSteps):
        return steps.descend_clipped(batch, rate=RATE, clip_norm=CLIP, first=True)
    program = LaneBatch(batch.features[:, None], batch.labels[:, None], batch.weights[:, None])
    noise = torch.zeros((1, 1, steps._own.shape[1]))
    return steps.descend_clipped_through(program, noise, rate=RATE, clip_norm=CLIP, first=True)


def moved(make, precision: str, image, rows: int, *, end_to_end: bool, kernel: str) -> float:
    """How far the last of `rows` records moves the clipped sum, in clip norms."""
    training = reference(make, PRIVATE)
    plan = Plan(kernel=kernel, clients=2, precision=precision)
    found = lane_kernel(training.model, PRIVATE, plan, example=(1, SIDE, SIDE))
    assert not isinstance(found, str)
    lanes, params = found.lanes(plan), training.model.get()
    steps = found.steps(Chunk(lanes, rows, torch.device("cpu"), plan.product))
    sums = []
    for batch in batches(image, rows, lanes=lanes, end_to_end=end_to_end):
        steps.load(params)
        clipped, _ = taken(steps, batch)
        assert clipped.sum() >= rows - 1
        out = torch.empty((lanes, len(params)))
        steps.store(out, params, slice(0, lanes))
        sums.append(out.double() / RATE)
    whole, less = torch.cat(sums)
    return float((whole - less).norm()) / CLIP


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("make", "end_to_end", "kernel"),
    [
        (make, ends, "vectorised")
        for make in (logistic, linear, mlp, cnn, odd_cnn)
        for ends in (False, True)
    ]
    + [(Residual, False, "vectorised"), (Residual, False, "compiled"), (cnn, False, "compiled")],
)
def test_a_record_moves_the_sum_by_the_clip_norm_at_most(
    make, precision, end_to_end, kernel, uncompiled
) -> None:
    """Alone, and behind 255 like it: a sum that is rounded may move further than they did."""
    for rows, images in ((1, 8), (256, 2)):
        for seed in range(images):
            image = torch.randn((1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
            found = moved(make, precision, image, rows, end_to_end=end_to_end, kernel=kernel)
            assert 0.98 < found <= 1 + ROUNDING


@pytest.mark.slow
def test_nor_does_what_a_compiler_makes_of_it() -> None:
    """It may choose what is rounded, and where a norm is taken from."""
    image = torch.randn((1, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    found = moved(Residual, "bfloat16", image, 8, end_to_end=False, kernel="compiled")
    assert 0.98 < found <= 1 + ROUNDING
