"""Recorded steps are the steps: replayed on other batches they change weights as by themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lane_cases import PLAIN, PRIVATE, Residual, cnn, logistic, mlp, planned, reference
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from codex_ray.learning.captured import CapturedSteps
from codex_ray.learning.kernels import LaneSteps, lane_kernel
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.vectorised import VectorisedTraining

CHUNK = Chunk(3, 4, torch.device("cpu"))
SHAPE = (1, 12, 12)


SHAPES_ONLY = ("unsqueeze_", "squeeze_", "transpose_")
"""These change what a tensor looks like to Python, and nothing in memory."""


def _memory(value: Any) -> Any:
    """The same memory under the shape that it has now."""
    return torch.ops.aten.alias(value) if isinstance(value, torch.Tensor) else value


class Tape(TorchDispatchMode):
    """Records as a GPU does: which operations, on which memory; nothing of the Python around."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replayed = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return float(func(*args))  # What a CPU looks at to save work; a GPU never does.
        given = tree_map(_memory, (args, kwargs or {}))
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in SHAPES_ONLY:
            self.operations.append((func, *given, tree_map(_memory, found)))
        return found

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        for _ in range(3):
            work()
        self.operations = []
        with self:
            result = work()
        return self._replaying(list(self.operations)), result

    def _replaying(self, operations: list[tuple[Any, Any, Any, Any]]) -> Callable[[], None]:
        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, was in operations:
                found = func(*args, **kwargs)
                for here, there in zip(tree_leaves(was), tree_leaves(found), strict=True):
                    if isinstance(here, torch.Tensor) and here.data_ptr() != there.data_ptr():
                        here.copy_(there)

        return replay


class Refusing:
    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def steps_of(make, trainer) -> tuple[LaneSteps, torch.Tensor]:
    training = reference(make, trainer)
    plan = Plan(kernel="vectorised", clients=3)
    kernel = lane_kernel(training.model, trainer, plan, example=SHAPE)
    assert not isinstance(kernel, str)
    return kernel.steps(CHUNK), training.model.get()


def batches() -> list[LaneBatch]:
    made = []
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        made.append(
            LaneBatch(
                torch.randn((3, 4, *SHAPE), generator=draw),
                torch.randint(0, 3, (3, 4), generator=draw),
                torch.randint(0, 2, (3, 4), generator=draw).float(),
            )
        )
    return made


def weights_after(steps: LaneSteps, params: torch.Tensor) -> torch.Tensor:
    """Updates [3, d] of four steps, twice over, as chunks come one after the other."""
    for _ in range(2):
        steps.load(params)
        for number, batch in enumerate(batches()):
            steps.descend(batch, rate=0.3, first=number == 0)
    out = torch.zeros((3, len(params)))
    steps.store(out, params, slice(0, 3))
    return out


@pytest.mark.parametrize("make", [logistic, mlp, cnn, Residual])
def test_replayed_steps_are_the_steps_to_the_bit(make) -> None:
    plain, params = steps_of(make, PLAIN)
    tape = Tape()
    recorded = CapturedSteps(steps_of(make, PLAIN)[0], tape)
    found = weights_after(recorded, params)
    assert torch.equal(found, weights_after(plain, params)) and found.abs().max() > 0
    assert tape.replayed == 8 and len(recorded._recorded) == 2  # the first step, and any other


@pytest.mark.parametrize("make", [logistic, cnn])
def test_replayed_clipped_steps_count_what_they_clip(make) -> None:
    plain, params = steps_of(make, PRIVATE)
    recorded = CapturedSteps(steps_of(make, PRIVATE)[0], Tape())
    for steps in (plain, recorded):
        steps.load(params)
    for number, batch in enumerate(batches()):
        first = number == 0
        one = plain.descend_clipped(batch, rate=0.1, clip_norm=0.5, first=first)
        two = recorded.descend_clipped(batch, rate=0.1, clip_norm=0.5, first=first)
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
        assert one[0].sum() > 0
    outs = torch.zeros((2, 3, len(params)))
    plain.store(outs[0], params, slice(0, 3))
    recorded.store(outs[1], params, slice(0, 3))
    assert torch.equal(outs[0], outs[1])


class Standardised(nn.Module):
    """No number comes of it where all pixels are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other = mlp(), mlp()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3))[
            :, None, None, None
        ]
        return self.inner(images) + self.other(images)


def test_recording_in_mid_chunk_leaves_weights_as_they_were() -> None:
    """It takes the step a few times: on the batch at hand, since one of nothing may spoil them."""
    plain, params = steps_of(Standardised, PLAIN)
    recorded = CapturedSteps(steps_of(Standardised, PLAIN)[0], Tape())
    outs = torch.zeros((2, 3, len(params)))
    for steps, out in zip((plain, recorded), outs, strict=True):
        steps.load(params)
        for number, batch in enumerate(batches()):
            steps.descend(batch, rate=0.3, first=number == 0)
        steps.store(out, params, slice(0, 3))
    assert torch.equal(outs[0], outs[1]) and torch.isfinite(outs).all()


def test_other_shapes_and_rates_are_recorded_for_themselves() -> None:
    steps, params = steps_of(logistic, PLAIN)
    recorded = CapturedSteps(steps, Tape())
    recorded.load(params)
    whole = batches()[0]
    short = LaneBatch(whole.features[:, :2], whole.labels[:, :2], whole.weights[:, :2])
    for batch, rate in ((whole, 0.1), (short, 0.1), (whole, 0.2), (whole, 0.1)):
        recorded.descend(batch, rate=rate, first=False)
    assert len(recorded._recorded) == 3


def test_steps_that_cannot_be_recorded_are_taken_and_said_once(caplog) -> None:
    plain, params = steps_of(mlp, PLAIN)
    recorded = CapturedSteps(steps_of(mlp, PLAIN)[0], Refusing())
    with caplog.at_level(logging.WARNING):
        found = weights_after(recorded, params)
    assert torch.equal(found, weights_after(plain, params))
    assert [line.getMessage() for line in caplog.records] == [
        "steps are not recorded as a CUDA graph, which is slower: operation not permitted when "
        "stream is capturing"
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE], ids=["plain", "private"])
def test_a_gpu_replays(trainer) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    training = planned(reference(cnn, trainer))
    there = VectorisedTraining(
        training.reference, training.plan.model_copy(update={"device": "cuda"})
    )
    there.train(training.reference.model.get(), range(5), 3)
    rooms = there._rooms.values()
    assert rooms and all(isinstance(room, CapturedSteps) and room._recorded for room in rooms)
