"""A whole local epoch as one program is the steps that it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lane_cases import (
    EPOCHS,
    PLAIN,
    PRIVATE,
    SIDE,
    SIZES,
    TREE,
    Held,
    Residual,
    cnn,
    logistic,
    planned,
    reference,
)

from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.epochs import LONGEST, Epochs, EpochSteps, steps_to_join
from codex_ray.learning.jobs import Job
from codex_ray.learning.kernels import lane_kernel
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.local_steps import Cut, cuts_of
from codex_ray.learning.mapped import Mapped, MappedSteps
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch

EVERYBODY = range(len(SIZES))
TRAINERS = {"plain": PLAIN, "epochs": EPOCHS, "private": PRIVATE}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("make", [logistic, cnn, Residual])
@pytest.mark.parametrize("steps", [2, 3])
def test_updates_and_counts_are_the_references(make, name, steps, uncompiled) -> None:
    training = reference(make, TRAINERS[name])
    compiled = planned(training, kernel="compiled", steps=steps)
    params = training.model.get()
    expected = training.train(params, EVERYBODY, 3)
    found = compiled.train(params, EVERYBODY, 3)
    assert (expected - found).abs().max() < 1e-5
    counts = [compiled.clipping(client) for client in EVERYBODY]
    assert counts == [training.clipping(client) for client in EVERYBODY]
    order = [5, 3, 9, 0, 6]
    assert torch.equal(compiled.train(params, order, 3), found[order])


def test_programs_are_used_and_short_batches_are_not_in_them(uncompiled, monkeypatch) -> None:
    shapes: list[tuple[int, ...]] = []
    through = EpochSteps.descend_through

    def noted(self, batch: LaneBatch, **rest: object) -> None:
        shapes.append(tuple(batch.labels.shape))
        through(self, batch, **rest)

    monkeypatch.setattr(EpochSteps, "descend_through", noted)
    training = reference(Residual, PLAIN, Held(sizes=(50, 43, 20, 9)))
    planned(training, kernel="compiled", steps=2).train(training.model.get(), range(4), 0)
    assert sorted(shapes) == [(1, 2, 10)] * (2 + 2 + 1)


def job(lengths: tuple[int, ...], rows: int) -> Job:
    records = Held(sizes=(20,)).client(0)
    return Job(0, 0, records, [np.arange(n) for n in lengths], rows, TREE)


@pytest.mark.parametrize(
    ("lengths", "joined", "expected"),
    [
        ([(4,) * 5], 5, [(0, 5)]),
        ([(4,) * 5], 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ([(4,) * 7], 3, [(0, 3), (3, 6), (6, 7)]),
        ([(4, 4, 1, 4, 4, 1)], 2, [(0, 2), (2, 3), (3, 5), (5, 6)]),
        ([(4,) * 4, (4,) * 3], 2, [(0, 2), (2, 3), (3, 4)]),
    ],
)
def test_steps_are_cut_where_a_job_ends_or_a_batch_is_short(lengths, joined, expected) -> None:
    kernel = Epochs(reference(Residual, PLAIN).model, False, joined)
    found = cuts_of([job(own, 4) for own in lengths], kernel)
    assert found == [Cut(*two) for two in expected]


def test_padded_batches_are_no_reason_to_cut() -> None:
    kernel = Epochs(reference(Residual, PRIVATE).model, True, 3)
    assert cuts_of([job((1, 0, 4), 4)], kernel) == [Cut(0, 3)]


@pytest.mark.parametrize(
    ("rule", "records", "expected"),
    [
        (ShuffledBatches(batch_size=10), 50, 5),
        (ShuffledBatches(batch_size=10), 57, 5),
        (ShuffledBatches(batch_size=10), 7, 1),
        (ShuffledBatches(batch_size=10, epochs=2), 30, 6),
        (ShuffledBatches(batch_size=10, epochs=2), 35, 3),
        (ShuffledBatches(batch_size=1), 20, 5),
        (PoissonBatches(sampling_rate=0.1, steps=8), 3, 8),
        (PoissonBatches(sampling_rate=0.1, steps=50), 3, 7),
    ],
)
def test_as_many_steps_are_joined_as_need_the_fewest_programs(rule, records, expected) -> None:
    assert steps_to_join(rule, records) == expected <= LONGEST


def chunk_of(lanes: int) -> Chunk:
    return Chunk(lanes, 4, torch.device("cpu"))


def batches(lanes: int, steps: int) -> LaneBatch:
    draw = torch.Generator().manual_seed(0)
    shape = (lanes, steps, 4)
    return LaneBatch(
        torch.randn((*shape, 1, SIDE, SIDE), generator=draw),
        torch.randint(0, 3, shape, generator=draw),
        torch.randint(0, 2, shape, generator=draw).float(),
    )


def step(batch: LaneBatch, at: int) -> LaneBatch:
    return LaneBatch(batch.features[:, at], batch.labels[:, at], batch.weights[:, at])


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_a_program_of_many_lanes_is_its_steps(lanes, first, uncompiled) -> None:
    """As on a GPU, where a chunk has many; a record of the last lane has no finite gradient."""
    model = reference(Residual, PRIVATE).model
    whole = EpochSteps(model, chunk_of(lanes), clipped=True)
    single = MappedSteps(model, chunk_of(lanes), clipped=True)
    batch = batches(lanes, 3)
    batch.features[lanes - 1, 1, 0] = torch.inf
    batch.weights[lanes - 1, 1, 0] = 1
    noise = torch.randn((lanes, 3, model.dimension), generator=torch.Generator().manual_seed(1))
    settings = {"rate": 0.1, "clip_norm": 0.5}
    for steps in (whole, single):
        steps.load(model.get())
        if not first:
            steps.descend_clipped(step(batch, 0), **settings, first=True)
    clipped, lost = whole.descend_clipped_through(batch, noise, **settings, first=first)
    counts = torch.zeros((2, lanes), dtype=torch.int64)
    for at in range(3):
        counts += torch.stack(
            single.descend_clipped(step(batch, at), **settings, first=first and at == 0)
        )
        single.shift(noise[:, at], rate=-0.1)
    outs = torch.zeros((2, lanes, model.dimension))
    for steps, out in zip((whole, single), outs, strict=True):
        steps.store(out, model.get(), slice(0, lanes))
    assert (outs[0] - outs[1]).abs().max() < 1e-5 and outs[0].abs().max() > 0.01
    assert torch.equal(torch.stack((clipped, lost)), counts)
    assert counts[1].tolist() == [0] * (lanes - 1) + [1] and counts[0].sum() > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["vectorised", "compiled"])
@pytest.mark.parametrize("make", [logistic, cnn, Residual])
def test_lanes_share_their_weights_until_the_first_step_is_done(
    make, kernel, precision, uncompiled
) -> None:
    """Loading copies nothing into them, and the first step has the bits of any other."""
    model = reference(make, PLAIN).model
    plan = Plan(kernel=kernel, clients=3, precision=precision, steps=1)
    found = lane_kernel(model, PLAIN, plan, example=(1, SIDE, SIDE))
    assert not isinstance(found, str)
    chunk = replace(chunk_of(3), product=plan.product)
    shared, copied = found.steps(chunk), found.steps(chunk)
    batch = step(batches(3, 1), 0)
    outs = torch.zeros((2, 3, model.dimension))
    for steps in (shared, copied):
        steps.load(model.get())
        steps.store(outs[0], model.get() * 0, slice(0, 3))
        assert not outs[0].any()
    nothing = replace(batch, weights=batch.weights * 0)
    copied.descend(nothing, rate=0.3, first=True)
    shared.descend(batch, rate=0.3, first=True)
    copied.descend(batch, rate=0.3, first=False)
    for steps, out in zip((shared, copied), outs, strict=True):
        steps.store(out, model.get(), slice(0, 3))
    if make is Residual:  # by torch.func: one product for lanes that share their weights
        assert (outs[0] - outs[1]).abs().max() < (1e-6 if precision == "float32" else 1e-2)
    else:
        assert kernel == "compiled" or torch.equal(outs[0], outs[1])
    assert outs[0].abs().max() > 1e-3


def test_a_first_step_without_records_leaves_lanes_where_they_start() -> None:
    training = reference(logistic, PLAIN)
    kernel = lane_kernel(
        training.model, PLAIN, Plan(kernel="vectorised", clients=3), example=(1, SIDE, SIDE)
    )
    assert not isinstance(kernel, str)
    steps, params = kernel.steps(chunk_of(3)), training.model.get() + 1
    steps.load(params)
    none = batches(3, 1)
    steps.descend(
        LaneBatch(none.features[:, 0, :0], none.labels[:, 0, :0], none.weights[:, 0, :0]),
        rate=0.3,
        first=True,
    )
    out = torch.full((3, training.dimension), torch.nan)
    steps.store(out, params, slice(0, 3))
    assert not out.any()


def test_a_stack_is_compiled_too_if_the_plan_says_so() -> None:
    training = reference(cnn, PLAIN)
    found = lane_kernel(
        training.model, PLAIN, Plan(kernel="compiled", steps=4), example=(1, SIDE, SIDE)
    )
    assert isinstance(found, Epochs) and found.joined == 4
    assert Mapped(training.model, clipped=False).joined == 1
