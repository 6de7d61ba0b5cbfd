"""Many clients in one program: the reference's updates, and the same bits in whatever chunk."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from lane_cases import (
    COINS,
    EPOCHS,
    PLAIN,
    PRIVATE,
    SIDE,
    SIZES,
    TREE,
    Held,
    Residual,
    cnn,
    linear,
    logistic,
    mlp,
    odd_cnn,
    planned,
    reference,
)
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.errors import DataError
from codex_ray.learning.asked_plan import AskedPlan
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.clipped_sums import CHUNK
from codex_ray.learning.jobs import ROWS, Job, Padded, Uneven, rows_for
from codex_ray.learning.lanes import Chunk, by_element
from codex_ray.learning.mapped import Mapped
from codex_ray.learning.plans import Plan
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.stacks import Stack
from codex_ray.learning.trainers import Sgd
from codex_ray.learning.vectorised import VectorisedTraining

STACKS = (logistic, linear, mlp, cnn, odd_cnn)
TRAINERS = {"plain": PLAIN, "epochs": EPOCHS, "coins": COINS, "private": PRIVATE}
DENSE = PRIVATE.model_copy(update={"batches": PoissonBatches(sampling_rate=1.0, steps=3)})
LONG = {(cnn, "epochs"), (odd_cnn, "epochs"), (Residual, "epochs"), (Residual, "private")}
"""The cases that take seconds."""


def cases(*trainers: str):
    """Every model with each of those trainers; what takes long is marked slow."""
    return pytest.mark.parametrize(
        ("make", "trainer"),
        [
            pytest.param(
                make, TRAINERS[name], id=f"{make.__name__}-{name}",
                marks=[pytest.mark.slow] if (make, name) in LONG else [],
            )
            for make in (*STACKS, Residual)
            for name in trainers
        ],
    )  # fmt: skip


EVERYBODY = range(len(SIZES))


def kernel(training: VectorisedTraining):
    return training._kernel((1, SIDE, SIDE))


@cases("plain", "epochs", "coins", "private")
def test_updates_are_the_references(make, trainer) -> None:
    training = reference(make, trainer)
    vectorised = planned(training)
    params = training.model.get()
    expected = training.train(params, EVERYBODY, 3)
    found = vectorised.train(params, EVERYBODY, 3)
    assert (expected - found).abs().max() < 1e-5
    assert expected.abs().max() > 0.01
    if not (make is Residual and trainer is COINS):
        assert kernel(vectorised) is not None


@cases("plain", "epochs", "coins", "private")
def test_an_update_has_the_same_bits_in_every_chunk(make, trainer) -> None:
    training = reference(make, trainer)
    vectorised = planned(training, clients=4)
    params = training.model.get()
    whole = vectorised.train(params, EVERYBODY, 0)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(EVERYBODY)).tolist()
        assert torch.equal(vectorised.train(params, order, 0), whole[order])
    for client in EVERYBODY:
        assert torch.equal(planned(training).train(params, [client], 0)[0], whole[client])


@pytest.mark.parametrize("clients", [2, 3, 8])
def test_a_short_chunk_has_the_bits_of_a_full_one(clients) -> None:
    training = reference(mlp, PLAIN)
    params = training.model.get()
    whole = planned(training, clients=clients).train(params, EVERYBODY, 0)
    for count in range(1, len(EVERYBODY)):
        found = planned(training, clients=clients).train(params, EVERYBODY[:count], 0)
        assert torch.equal(found, whole[:count])


@pytest.mark.parametrize("make", [logistic, mlp, odd_cnn])
@pytest.mark.parametrize(
    ("trainer", "clients", "sizes"),
    [
        (PLAIN, 32, (30,) * 32),
        (PLAIN, 64, (30,) * 64),
        (DENSE, 32, (30,) * 32),
        (DENSE, 3, (31, 31, 2)),
    ],
    ids=["32", "64", "32-dense", "3-dense"],
)
def test_a_round_number_of_elements_is_computed_as_any_other(make, trainer, clients, sizes) -> None:
    """Rows and lanes lie apart, and torch has other code for that, which came and went with 64."""
    training = reference(make, trainer, Held(sizes=sizes, classes=2))
    params = training.model.get()
    everybody = range(len(sizes))
    whole = planned(training, clients=clients).train(params, everybody, 0)
    few = everybody[:5] if clients > 5 else everybody[:2]
    assert torch.equal(planned(training, clients=clients).train(params, few, 0), whole[few])


@pytest.mark.parametrize("make", [linear, mlp])
def test_small_products_in_bfloat16_are_those_of_any_chunk(make) -> None:
    """Torch chooses how by the sizes of all lanes together."""
    trainer = Sgd(learning_rate=0.2, batches=ShuffledBatches(batch_size=4, epochs=2))
    training = reference(make, trainer, Held(sizes=(31,) * 8))
    params = training.model.get()
    whole = planned(training, clients=8, precision="bfloat16").train(params, range(8), 3)
    for client in range(8):
        alone = planned(training, clients=8, precision="bfloat16").train(params, [client], 3)
        assert torch.equal(alone[0], whole[client])


class Moody(nn.Module):
    """Another function in training than in evaluation, without any chance in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images) * (0.5 if self.training else 1.0)


@pytest.mark.parametrize("kernel", ["vectorised", "compiled"])
@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
def test_clients_are_trained_in_training_mode_whatever_was_done_before(
    trainer, kernel, uncompiled
) -> None:
    """A run that goes on has evaluated the module, and one that is resumed has not."""
    training = reference(Moody, trainer)
    params = training.model.get()
    expected = training.train(params, EVERYBODY, 0)
    used = planned(training, kernel=kernel)
    for _ in range(2):
        found = used.train(params, EVERYBODY, 0)
        assert (found - expected).abs().max() < 1e-5
        used.tell(params, [0], {"train_loss"})


def test_what_an_earlier_chunk_left_behind_is_nothing_to_the_next() -> None:
    """The spoiled client's chunk leaves infinite numbers in every room that is used again."""
    training = reference(cnn, PLAIN, Held(spoiled=(0, 7)))
    params = training.model.get() + 10.0  # so that the spoiled record overflows
    fresh = {c: planned(training).train(params, [c], 0)[0] for c in (3, 4, 9)}
    used = planned(training)
    spoiled = used.train(params, [7, 0, 7, 0], 0)
    assert not torch.isfinite(spoiled).all()
    for client, expected in fresh.items():
        assert torch.equal(used.train(params, [client], 0)[0], expected)


def test_a_client_that_is_done_stays_as_it_was() -> None:
    """Infinite weights would become no numbers, were they to go on with the longer chunk-mate."""
    training = reference(linear, Sgd(learning_rate=1000.0), Held(spoiled=(3,)))
    params = torch.zeros(training.dimension)
    alone = planned(training).train(params, [3], 0)[0]
    beside = planned(training).train(params, [6, 3], 0)[1]
    assert torch.isinf(alone).any()
    assert torch.equal(alone.isnan(), beside.isnan())
    assert torch.equal(alone.nan_to_num(), beside.nan_to_num())


def test_a_room_that_is_used_again_is_as_good_as_a_new_one() -> None:
    rng = np.random.default_rng(0)

    def job(place: int, lengths: tuple[int, ...]) -> Job:
        records = Held(sizes=(20,)).client(0)
        batches = [rng.permutation(20)[:n] for n in lengths]
        return Job(place, place, records, batches, 8, TREE)

    jobs = [job(0, (8, 3, 0, 8)), job(1, (8, 8)), job(2, (5,))]
    new, used = (Padded.room(4, 6, 8, (1, SIDE, SIDE)) for _ in range(2))
    used.features.fill_(torch.inf)
    used.labels.fill_(2)
    expected, found = Padded.of(jobs, new), Padded.of(jobs, used)
    assert torch.equal(expected.features, found.features)
    assert torch.equal(expected.labels, found.labels)
    assert torch.equal(expected.there, found.there)
    assert found.there.sum((1, 2)).tolist() == [19, 16, 5, 0]
    assert not found.features[found.there == 0].any()


def uneven_jobs(*lengths: tuple[int, ...]) -> list[Job]:
    """One client for each tuple of batch lengths."""
    rng = np.random.default_rng(0)
    return [
        Job(n, n, Held(sizes=(20,) * 9).client(n), [rng.permutation(20)[:k] for k in own], 0, TREE)
        for n, own in enumerate(lengths)
    ]


def test_uneven_lanes_lie_end_to_end() -> None:
    """In memory that was used before, and is large enough."""
    jobs = uneven_jobs((8, 3), (0, 1), (0, 0))
    data = Uneven.of(jobs, 4, torch.full((40, 1, SIDE, SIDE), torch.inf))
    assert len(data.features) == len(data.labels) == 8 + 4 + 2
    assert [spans.lengths for spans in data.spans] == [(8, 0, 0, 0), (4, 2, 0, 0)]
    for step, places in enumerate([[(0, slice(0, 8))], [(0, slice(0, 3)), (1, slice(4, 5))]]):
        batch = data.step(step)
        assert batch.spans is data.spans[step]
        there = torch.zeros(len(data.spans[step].lane_of))
        for lane, rows in places:
            records, numbers = jobs[lane].records, jobs[lane].batches[step]
            assert np.array_equal(batch.features[0, rows].numpy(), records.features[numbers])
            assert batch.labels[0, rows].tolist() == records.labels[numbers].tolist()
            assert set(data.spans[step].lane_of[rows].tolist()) == {lane}
            there[rows] = 1
        assert torch.equal(batch.weights[0], there)
        assert not batch.features[0, there == 0].any()


def test_uneven_memory_is_used_again_and_grows() -> None:
    jobs = uneven_jobs((8, 3), (5, 1))
    room = torch.empty((18, 1, SIDE, SIDE))
    assert Uneven.of(jobs, 2, room[:17]).features.data_ptr() != room.data_ptr()
    assert Uneven.of(jobs, 2, room).features.data_ptr() != room.data_ptr()
    room = torch.empty((30, 1, SIDE, SIDE))
    assert Uneven.of(jobs, 2, room).features.data_ptr() == room.data_ptr()


def test_averaged_weights_are_the_mean_of_a_batch() -> None:
    data = Uneven.of(uneven_jobs((8, 3), (0, 5)), 2, None).averaged()
    assert data.step(0).weights[0].tolist() == [1 / 8] * 8
    expected = [np.float32(1 / 3)] * 3 + [0] + [np.float32(1 / 5)] * 5 + [0]
    assert data.step(1).weights[0].tolist() == expected


def test_random_batches_are_hardly_padded() -> None:
    """A client's five batches of ten on average are up to eighteen long; all are done as one."""
    training = reference(linear, PRIVATE, Held(sizes=(50,) * 8))
    vectorised = planned(training, clients=8)
    rows = []

    class Counted(Uneven):
        @classmethod
        def of(cls, jobs, lanes, room):
            found = Uneven.of(jobs, lanes, room)
            rows.append((len(found.labels), int(found.there.sum())))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codex_ray.learning.vectorised.Uneven", Counted)
        vectorised.train(training.model.get(), range(8), 0)
    ((padded, real),) = rows
    assert real <= padded <= 1.1 * real


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh])
def test_the_last_elements_are_computed_as_the_first_are(function) -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    whole = by_element(function, values)
    for count in range(1, 200):
        assert torch.equal(by_element(function, values[:count]), whole[:count])


class Mixing(nn.Module):
    """Looks at a record beside the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images - images.mean(0, keepdim=True))


@pytest.mark.parametrize("trainer", [PLAIN, EPOCHS])
def test_a_module_that_mixes_records_never_sees_padding(trainer, caplog) -> None:
    training = reference(Mixing, trainer)
    params = training.model.get()
    found = planned(training).train(params, EVERYBODY, 0)
    assert (found - training.train(params, EVERYBODY, 0)).abs().max() < 1e-5
    assert not caplog.text


def test_torch_func_gets_one_client_at_a_time_on_a_cpu() -> None:
    """Where its lanes lie in memory is not ours to say, and their sums depend on it."""
    kernel = Mapped(reference(Residual, PLAIN).model, clipped=False)
    assert kernel.lanes(Plan(kernel="vectorised", clients=8)) == 1
    assert kernel.lanes(Plan(kernel="vectorised", clients=8, device="meta")) == 8


@pytest.mark.parametrize("make", [linear, Residual])
def test_padding_is_never_counted(make) -> None:
    """With parameters that are no numbers every row is lost, and only records count."""
    training = reference(make, PRIVATE)
    vectorised = planned(training)
    params = torch.full_like(training.model.get(), torch.nan)
    training.train(params, EVERYBODY, 0)
    vectorised.train(params, EVERYBODY, 0)
    counted = [vectorised.clipping(client) for client in EVERYBODY]
    assert counted == [training.clipping(client) for client in EVERYBODY]
    assert counted[0][0] == counted[0][2] > 0


def test_a_record_without_a_finite_gradient_is_left_out_and_counted() -> None:
    dataset = Held(spoiled=(0, 7))
    training = reference(linear, PRIVATE, dataset)
    vectorised = planned(training)
    params = training.model.get() + 1.0  # so that the spoiled record's logits overflow
    expected = training.train(params, EVERYBODY, 0)
    found = vectorised.train(params, EVERYBODY, 0)
    assert torch.isfinite(found).all()
    assert (expected - found).abs().max() < 1e-5
    counted = [vectorised.clipping(client) for client in EVERYBODY]
    assert counted == [training.clipping(client) for client in EVERYBODY]
    assert sum(lost for _, _, lost in counted) > 0
    clean = planned(reference(linear, PRIVATE)).train(params, EVERYBODY, 0)
    others = [client for client in EVERYBODY if client not in dataset.spoiled]
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("make", [linear, cnn, Residual])
def test_clipping_is_counted_as_the_reference_counts_it(make) -> None:
    training = reference(make, PRIVATE)
    vectorised = planned(training)
    training.train(training.model.get(), EVERYBODY, 1)
    vectorised.train(training.model.get(), EVERYBODY, 1)
    counted = [vectorised.clipping(client) for client in EVERYBODY]
    assert counted == [training.clipping(client) for client in EVERYBODY]
    assert sum(clipped for _, clipped, _ in counted) > 0


def test_clients_without_records_stay_where_they_are() -> None:
    training = reference(linear, PLAIN)
    vectorised = planned(training)
    params = training.model.get()
    assert not vectorised.train(params, [1], 0).any()
    assert vectorised.train(params, [], 0).shape == (0, training.dimension)
    noise_alone = planned(reference(linear, PRIVATE)).train(params, [1], 0)
    assert noise_alone.any()


def test_more_records_than_a_chunk_of_the_reference() -> None:
    training = reference(cnn, PRIVATE, Held(sizes=(5 * CHUNK, 2 * CHUNK)))
    params = training.model.get()
    expected = training.train(params, [0, 1], 0)
    assert (planned(training).train(params, [0, 1], 0) - expected).abs().max() < 1e-5


def test_rows_depend_on_the_client_alone() -> None:
    batches = [np.arange(n) for n in (3, 9, 0)]
    assert rows_for(PRIVATE.batches, batches) % ROWS == 0
    assert 9 <= rows_for(PRIVATE.batches, batches) < 9 + ROWS
    assert rows_for(PRIVATE.batches, []) == ROWS
    assert rows_for(ShuffledBatches(batch_size=10), batches) == 10


def test_the_rest_is_the_references() -> None:
    training = reference(linear, PLAIN)
    vectorised = planned(training)
    params = training.model.get()
    asked = {"train_loss"}
    assert vectorised.tell(params, [0, 1, 2], asked) == training.tell(params, [0, 1, 2], asked)
    assert vectorised.dimension == training.dimension
    assert vectorised.clipping(0) == (0, 0, 0)


def test_a_label_that_does_not_fit_is_refused() -> None:
    training = reference(linear, PLAIN, Held(classes=9))
    with pytest.raises(DataError, match="client 0: label"):
        planned(training).train(training.model.get(), EVERYBODY, 0)


class Counter(nn.Module):
    """Keeps a number outside its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + 1
        return self.inner(images)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.Dropout(), nn.Linear(8, 3))


def looking() -> nn.Module:
    """Looks at its numbers, which no map over clients can do."""

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images if images.sum() > -1e9 else -images)

    return Looking()


@pytest.mark.parametrize(
    ("make", "why"),
    [(dropping, "random"), (looking, "data-dependent"), (Counter, "buffer 'seen'")],
)
def test_what_cannot_be_vectorised_falls_back_and_says_so_once(make, why, caplog) -> None:
    training = reference(make, PLAIN)
    vectorised = planned(training)
    params = training.model.get()
    with caplog.at_level(logging.WARNING):
        first = vectorised.train(params, EVERYBODY, 0)
        vectorised.train(params, EVERYBODY, 1)
    assert torch.equal(first, training.train(params, EVERYBODY, 0))
    assert len(caplog.messages) == 1
    assert "one at a time" in caplog.messages[0] and why in caplog.messages[0]


@pytest.mark.slow  # Opacus takes seconds to import
def test_another_engine_is_left_to_the_reference(caplog) -> None:
    training = reference(linear, PRIVATE.model_copy(update={"engine": "opacus"}))
    params = training.model.get()
    found = planned(training).train(params, [0, 3], 0)
    assert torch.equal(found, training.train(params, [0, 3], 0))
    assert "trainer.engine is opacus" in caplog.text


def test_the_reference_plan_says_nothing(caplog) -> None:
    training = reference(linear, PLAIN)
    params = training.model.get()
    found = VectorisedTraining(training, Plan()).train(params, [0, 3], 0)
    assert torch.equal(found, training.train(params, [0, 3], 0))
    assert not caplog.text


def test_only_the_read_part_of_an_image_is_computed() -> None:
    stack = Stack.of(cnn(), (1, SIDE, SIDE))
    assert stack is not None
    made = [window.made for window in stack.windows if window is not None]
    # 12 -> 10 -> 5 -> 4 -> 1, of which the last pool reads three rows and columns of four.
    assert made == [(8, 8), (4, 4), (3, 3), (1, 1)]


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(SIDE, 3), nn.Flatten(), nn.Linear(SIDE * 3, 3)),
        nn.Sequential(nn.Conv2d(1, 4, 3, padding_mode="circular"), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3), nn.Softplus()),
        nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 4), nn.BatchNorm1d(4)),
        Residual(),
    ],
)
def test_other_modules_are_no_stacks(module) -> None:
    assert Stack.of(module, (1, SIDE, SIDE)) is None


@pytest.mark.parametrize("make", STACKS)
def test_transposed_convolutions_by_patch_are_those_by_lane(make) -> None:
    """A device other than a CPU adds patches up; here it is made to, on a CPU."""
    stack = Stack.of(make(), (1, SIDE, SIDE)) if make is not odd_cnn else None
    made = reference(make, PLAIN)
    stack = stack or Stack.of(made.model.module, (1, SIDE, SIDE))
    assert stack is not None
    params, found = made.model.get(), []
    features = torch.randn(3, 4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for by_patch in (False, True):
        steps = stack.steps(Chunk(3, 4, torch.device("cpu")))
        for layer in steps._weighted:
            if by_patch and hasattr(layer, "_by_lane"):
                layer._by_lane = layer._by_patch
        steps.load(params)
        for first in (True, False):
            labels = torch.ones((3, 4), dtype=torch.int64)
            batch = LaneBatch(features, labels, torch.full((3, 4), 0.25))
            steps.descend(batch, rate=0.5, first=first)
        out = torch.empty((3, len(params)))
        steps.store(out, params, slice(0, 3))
        found.append(out)
    assert (found[0] - found[1]).abs().max() < 1e-6
    assert found[0].abs().max() > 1e-3


@pytest.mark.parametrize("make", [mlp, cnn, odd_cnn])
def test_nothing_leaves_the_device(make) -> None:
    """On the meta device every tensor that is made elsewhere is an error."""
    training = reference(make, PLAIN)
    found = planned(training, device="meta").train(training.model.get(), [0, 3, 4], 0)
    assert found.device.type == "meta" and found.shape == (3, training.dimension)
    stack = Stack.of(training.model.module, (1, SIDE, SIDE))
    assert stack is not None
    device = torch.device("meta")
    steps = stack.steps(Chunk(2, 4, device))
    features = torch.empty((2, 4, 1, SIDE, SIDE), device=device)
    labels = torch.empty((2, 4), dtype=torch.int64, device=device)
    there = torch.empty((2, 4), device=device)
    batch = LaneBatch(features, labels, there)
    for first in (True, False):
        counts = steps.descend_clipped(batch, rate=0.1, clip_norm=1.0, first=first)
        assert {count.device.type for count in counts} == {"meta"}


@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
@pytest.mark.parametrize("make", [linear, mlp, cnn, Residual])
def test_bfloat16_is_near_and_keeps_float32_weights(make, trainer) -> None:
    training = reference(make, trainer)
    params = training.model.get()
    exact = planned(training).train(params, EVERYBODY, 0)
    vectorised = planned(training, precision="bfloat16")
    found = vectorised.train(params, EVERYBODY, 0)
    assert found.dtype == torch.float32
    away = (exact - found).norm() / exact.norm()
    assert 1e-6 < away < 0.05
    alone = planned(training, precision="bfloat16").train(params, [4], 0)
    assert torch.equal(alone[0], found[4])


@pytest.mark.parametrize("kernel", ["auto", "vectorised"])
@pytest.mark.parametrize("known", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_a_cpu_without_bfloat16_is_warned_of_once(
    known, kernel, monkeypatch, caplog, tmp_path
) -> None:
    monkeypatch.setenv("CODEX_RAY_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    training = reference(linear, PLAIN)
    plan = AskedPlan(kernel=kernel, precision="bf16").settled(training, updates=9000, gpus=0)
    AskedPlan(kernel=kernel).settled(training, updates=9000, gpus=0)
    VectorisedTraining(training, plan.plan).train(training.model.get(), [0, 3], 0)
    assert len(caplog.messages) == (0 if known else 1)
    assert known or "slower than with float32" in caplog.text


def learned(precision: str, seed: int) -> float:
    """Test accuracy on two clouds of images after a few rounds of averaging."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 1, SIDE, SIDE))

    def cloud(n: int, number: int) -> Records:
        labels = np.arange(n) % 3
        noise = np.random.default_rng(1000 * seed + number).normal(size=(n, 1, SIDE, SIDE))
        return Records((0.25 * centres[labels] + noise).astype(np.float32), labels)

    dataset = Held(sizes=(30,) * 8)
    dataset.client = lambda client: cloud(30, client)  # type: ignore[method-assign]
    training = reference(mlp, Sgd(learning_rate=0.5), dataset)
    vectorised = planned(training, precision=precision)
    params = training.model.get()
    for round in range(6):
        params = params + vectorised.train(params, range(8), round).mean(0)
    training.model.set(params)
    held_out = cloud(900, 99)
    with torch.no_grad():
        said = training.model.module(torch.from_numpy(held_out.features)).argmax(1).numpy()
    return float((said == held_out.labels).mean())


def test_bfloat16_learns_as_well_within_noise() -> None:
    exact = np.array([learned("float32", seed) for seed in range(4)])
    short = np.array([learned("bfloat16", seed) for seed in range(4)])
    assert exact.mean() > 0.6
    assert abs((exact - short).mean()) < 0.02
