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
from codex_ray.learning.epochs import LONGEST, Epochs, EpochSteps, still_to_compile
from codex_ray.learning.jobs import Job, compiled_rows, rows_for
from codex_ray.learning.kernels import compiler_obstacle, lane_kernel
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.local_steps import Cut, cuts_of
from codex_ray.learning.mapped import Mapped, MappedSteps
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.stacks import StackSteps
from codex_ray.learning.vectorised import VectorisedTraining

EVERYBODY = range(len(SIZES))
TRAINERS = {"plain": PLAIN, "epochs": EPOCHS, "private": PRIVATE}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("make", [logistic, cnn, Residual])
def test_updates_and_counts_are_the_references(make, name, uncompiled) -> None:
    training = reference(make, TRAINERS[name])
    compiled = planned(training, kernel="compiled")
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
    planned(training, kernel="compiled").train(training.model.get(), range(4), 0)
    assert sorted(shapes) == [(1, 1, 10)] + [(1, 2, 10)] + [(1, 4, 10)] * 2


def job(lengths: tuple[int, ...], rows: int) -> Job:
    records = Held(sizes=(20,)).client(0)
    return Job(0, 0, records, [np.arange(n) for n in lengths], rows, TREE)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([(4,) * 5], [(0, 4), (4, 5)]),
        ([(4,) * 23], [(0, 8), (8, 16), (16, 20), (20, 22), (22, 23)]),
        ([(4, 4, 1, 4, 4, 1)], [(0, 2), (2, 3), (3, 5), (5, 6)]),
        ([(4,) * 4, (4,) * 3], [(0, 2), (2, 3), (3, 4)]),
        ([(3,)], [(0, 1)]),
    ],
)
def test_steps_are_cut_where_a_job_ends_or_a_batch_is_short(lengths, expected) -> None:
    model, jobs = reference(Residual, PLAIN).model, [job(own, 4) for own in lengths]
    assert cuts_of(jobs, Epochs(model, False)) == [Cut(*two) for two in expected]
    alone = [Cut(at, at + 1) for at in range(len(lengths[0]))]
    assert cuts_of(jobs, Mapped(model, False)) == alone


@pytest.mark.parametrize(
    ("rule", "records", "expected"),
    [
        (ShuffledBatches(batch_size=10), 57, 15 / 5),
        (ShuffledBatches(batch_size=10), 9, 15),
        (ShuffledBatches(batch_size=10, epochs=3), 50, 1),  # 15 steps: all programs that there are
        (ShuffledBatches(batch_size=10, epochs=3), 51, 15 / 5),
        (ShuffledBatches(batch_size=10), 170, 15 / 9),
        (PoissonBatches(sampling_rate=0.2, steps=5), 50, 2),
    ],
)
def test_what_other_clients_may_have_compiled_is_counted(rule, records, expected) -> None:
    assert still_to_compile(rule, records) == expected


def test_padded_batches_are_no_reason_to_cut() -> None:
    kernel = Epochs(reference(Residual, PRIVATE).model, True)
    assert cuts_of([job((1, 0, 4, 2), 4)], kernel) == [Cut(0, 4)]


def test_random_batches_of_many_sizes_are_compiled_for_few() -> None:
    rule = PoissonBatches(sampling_rate=0.1, steps=5)
    sizes = [24, 50, 90, 200, 700, 1500, 2856]
    drawn = [rule.draw(n, TREE.stream("sizes", n)) for n in sizes]
    rows = [rows_for(rule, batches, compiled=True) for batches in drawn]
    assert set(rows) <= {8 << power for power in range(7)}
    for batches, padded in zip(drawn, rows, strict=True):
        longest = max(map(len, batches))
        assert longest <= padded < max(9, 2 * longest)
    likely = [compiled_rows(rule, n) for n in sizes]
    assert np.mean(np.array(likely) == rows) > 0.5


def test_what_is_tried_before_a_run_is_what_it_then_compiles(monkeypatch) -> None:
    """Rates are part of a program, and so of the name by which it is found again."""
    asked: list[tuple[float, ...]] = []
    for name in ("descend_through", "descend_clipped_through"):
        plain = getattr(EpochSteps, name)

        def noted(self, *batch: object, plain=plain, **rest: object):
            asked.append((rest["rate"], rest.get("clip_norm"), batch[0].labels.shape[2]))
            return plain(self, *batch, **rest)

        monkeypatch.setattr(EpochSteps, name, noted)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for trainer in (PLAIN, PRIVATE):
        training = reference(Residual, trainer, Held(sizes=(25, 25)))
        plan = Plan(kernel="compiled")
        asked.clear()
        assert compiler_obstacle(training, plan) is None
        VectorisedTraining(training, plan).train(training.model.get(), range(2), 0)
        assert asked[0] in asked[1:]


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
    plan = Plan(kernel=kernel, clients=3, precision=precision)
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
    if isinstance(shared, StackSteps):
        assert torch.equal(outs[0], outs[1])
    else:  # by torch.func: one product for lanes that share their weights
        assert (outs[0] - outs[1]).abs().max() < (1e-6 if precision == "float32" else 1e-2)
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
    found = lane_kernel(training.model, PLAIN, Plan(kernel="compiled"), example=(1, SIDE, SIDE))
    assert isinstance(found, Epochs) and found.joined == LONGEST
    assert Mapped(training.model, clipped=False).joined == 1
