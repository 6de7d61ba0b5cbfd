"""DP-SGD does what its event claims, and keeps Opacus' traps shut."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.errors import ConfigError, ModelError
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Linear, Mlp, Model
from codex_ray.randomness import SeedTree

TREE = SeedTree(bytes(32))


def records(n: int, features: int = 4, *, seed: int = 0) -> Records:
    rng = np.random.default_rng(seed)
    return Records(
        rng.normal(size=(n, features)).astype(np.float32), rng.integers(0, 2, n).astype(np.int64)
    )


def trainer(**changes) -> DpSgd:
    fields = {
        "learning_rate": 0.3,
        "clip_norm": 0.7,
        "noise_multiplier": 1.1,
        "batch_size": 5.0,
        "batches": PoissonBatches(sampling_rate=0.4, steps=3),
    }
    return DpSgd(**(fields | changes))


def model(source=None, features: int = 4) -> Model:
    return (source or Linear()).build(TREE, example=torch.zeros(1, features))


def by_hand(made: Model, start: torch.Tensor, held: Records, rule: DpSgd, streams: SeedTree):
    """The same algorithm with one gradient at a time, no hooks and no Opacus."""
    noise = streams.stream("noise")
    params = start.clone()
    for batch in rule.batches.draw(len(held), streams.stream("batches")):
        made.set(params)
        total = torch.zeros(len(params))
        for i in batch:
            made.module.zero_grad()
            logits = made.module(torch.from_numpy(held.features[i : i + 1]))
            label = torch.from_numpy(held.labels[i : i + 1]).float()
            nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), label).backward()
            gradient = torch.cat([p.grad.reshape(-1) for p in made.module.parameters()])
            total += gradient * min(1.0, rule.clip_norm / (float(gradient.norm()) + 1e-6))
        draws = [
            torch.from_numpy(noise.normal(p.numel()) * rule.noise_multiplier * rule.clip_norm)
            for p in made.module.parameters()
        ]
        total = total + torch.cat(draws).float()
        params = params - rule.learning_rate / rule.batch_size * total
    return params - start


ENGINES = ("vectorised", "opacus", "ghost")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", [Linear(), Mlp(hidden=(6,))], ids=["linear", "mlp"])
def test_the_update_is_that_of_the_algorithm_by_hand(source, engine) -> None:
    made, held, rule = model(source), records(20), trainer(engine=engine)
    start = made.get()
    streams = TREE.child("client", 0)
    update = rule.train(made, start, held, streams=streams)
    expected = by_hand(model(source), start, held, rule, streams)
    torch.testing.assert_close(update, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_record_moves_the_sum_by_more_than_the_clip_norm(engine) -> None:
    """With the noise taken away, adding one record moves one step by at most lr C / batch_size."""
    every = PoissonBatches(sampling_rate=1.0, steps=1)
    rule = trainer(noise_multiplier=1e-12, batches=every, engine=engine)
    made = model()
    held = records(9)
    held.features[0] *= 1e4  # a record with an enormous gradient
    fewer = Records(held.features[1:], held.labels[1:])
    start = made.get()
    moved = rule.train(made, start, held, streams=TREE) - rule.train(
        made, start, fewer, streams=TREE
    )
    bound = rule.learning_rate * rule.clip_norm / rule.batch_size
    assert 0.9 * bound < float(moved.norm()) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("source", [Linear(), Mlp(hidden=(6,))], ids=["linear", "mlp"])
def test_a_non_finite_record_counts_as_zero_and_is_counted(source, bad, engine) -> None:
    """Trap O7: without the guard one such record makes every parameter NaN."""
    rule = trainer(batches=PoissonBatches(sampling_rate=1.0, steps=1), engine=engine)
    made, held = model(source), records(6)
    start = made.get()
    held.features[2, 1] = bad
    update, clipping = rule.counted(made, start, held, streams=TREE)
    assert torch.isfinite(update).all()
    if bad == 1e38 and isinstance(source, Mlp):
        # A tanh that is saturated lets nothing back: a gradient of moderate size is no bad one.
        assert clipping.examples == 6
        return
    assert (clipping.examples, clipping.not_finite) == (6, 1)
    kept = Records(np.delete(held.features, 2, 0), np.delete(held.labels, 2, 0))
    torch.testing.assert_close(update, rule.train(made, start, kept, streams=TREE))


def test_records_that_are_all_bad_leave_noise_alone() -> None:
    rule = trainer(batches=PoissonBatches(sampling_rate=1.0, steps=1))
    held = records(5)
    held.features[:] = float("nan")
    updates = [
        rule.model_copy(update={"engine": e}).train(made, made.get(), r, streams=TREE)
        for e in ENGINES
        for r in (held, records(0))
        for made in [model()]
    ]
    assert all(torch.equal(updates[0], other) for other in updates[1:])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_a_step_of_noise_alone(engine) -> None:
    """Trap O6."""
    rule = trainer(batches=PoissonBatches(sampling_rate=1e-9, steps=1), engine=engine)
    made = model()
    start = made.get()
    update = rule.train(made, start, records(5), streams=TREE)
    noise = TREE.stream("noise")
    expected = [noise.normal(p.numel()) * 0.7 * 1.1 for p in made.module.parameters()]
    step = -torch.from_numpy(np.concatenate(expected)).float() * 0.3 / 5
    torch.testing.assert_close(update, step)
    assert len(rule.train(made, start, records(0), streams=TREE)) == len(start)


def test_noise_depends_on_the_streams_name_and_not_on_torchs_seed() -> None:
    """Trap O8: equal seeds in two processes give equal noise with Opacus' own generator."""
    rule, held = trainer(), records(10)
    updates = []
    for client in (0, 1, 0):
        torch.manual_seed(3)
        made = model()
        updates.append(rule.train(made, made.get(), held, streams=TREE.child("c", client)))
    assert not torch.equal(updates[0], updates[1])
    assert torch.equal(updates[0], updates[2])


def test_the_step_does_not_depend_on_how_many_records_there_are() -> None:
    """Trap O4: the divisor is public, so twice the same records give twice the step."""
    rule = trainer(noise_multiplier=1e-12, batches=PoissonBatches(sampling_rate=1.0, steps=1))
    made, held = model(), records(8)
    twice = Records(np.concatenate([held.features] * 2), np.concatenate([held.labels] * 2))
    start = made.get()
    one, two = (rule.train(made, start, r, streams=TREE) for r in (held, twice))
    torch.testing.assert_close(two, 2 * one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_training_again_needs_no_new_hooks(engine) -> None:
    """Trap O11."""
    rule, made = trainer(engine=engine), model()
    first = rule.train(made, made.get() * 0, records(9), streams=TREE)
    assert torch.equal(first, rule.train(made, made.get() * 0, records(9), streams=TREE))


def test_shuffled_batches_are_refused() -> None:
    """Trap O1: Opacus reports a Poisson epsilon for them without a word."""
    with pytest.raises(ConfigError, match="shuffled, which has no sound privacy accounting"):
        trainer(batches=ShuffledBatches())


class OddLayer(nn.Module):
    """Trap O12: holds a parameter outside the layers that Opacus knows, and shares it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.inner.weight, self.inner.bias)


def test_batch_norm_is_named_with_its_fix() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with pytest.raises(ModelError, match=r"layer '1' is BatchNorm1d.*GroupNorm"):
        Model(module, example=torch.zeros(1, 4))


def test_a_layer_without_per_example_gradients_is_refused() -> None:
    made = Model(OddLayer(), example=torch.zeros(1, 4))
    with pytest.raises(ModelError, match=r"inner\.weight.*no per-example gradient"):
        trainer(engine="opacus").check(made, records(2))


def test_that_layer_is_none_of_the_vectorised_engines_troubles() -> None:
    made, held, rule = Model(OddLayer(), example=torch.zeros(1, 4)), records(20), trainer()
    rule.check(made, held)
    start = made.get()
    update = rule.train(made, start, held, streams=TREE)
    expected = by_hand(Model(OddLayer(), example=torch.zeros(1, 4)), start, held, rule, TREE)
    torch.testing.assert_close(update, expected, rtol=2e-5, atol=2e-6)


class Mixing(nn.Module):
    """Takes the mean of the batch away."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True) if len(x) > 1 else x


@pytest.mark.parametrize("engine", ["opacus", "ghost"])
def test_hooks_are_refused_a_layer_that_mixes_the_records_of_a_batch(engine) -> None:
    """They would take the gradient of one record for everything that it has changed."""
    made = Model(nn.Sequential(Mixing(), nn.Linear(4, 1)), example=torch.zeros(1, 4))
    with pytest.raises(ModelError, match=r"mixes the records of a batch.*engine: vectorised"):
        trainer(engine=engine).check(made, records(2))


def test_ghost_clipping_is_refused_a_layer_whose_norms_opacus_leaves_out() -> None:
    """Opacus has no norm for a linear layer on four axes, and does not say so."""
    module = nn.Sequential(
        nn.Unflatten(1, (2, 1, 2)), nn.Linear(2, 1), nn.Flatten(), nn.Linear(2, 1)
    )
    made = Model(module, example=torch.zeros(1, 4))
    with pytest.raises(ModelError, match=r"'1\.weight' gets no per-example gradient"):
        trainer(engine="ghost").check(made, records(2))
    trainer(engine="opacus").check(made, records(2))


class Stubborn(nn.Module):
    """Asks for a number in the middle of the computation, which no vectorised gradient has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


class Counter(nn.Module):
    """Counts how often it was used, which is no part of the parameters."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.seen += 1
        else:
            self.seen = self.seen + 1
        return x


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Stubborn(), r"layer 'odd' \(Stubborn\).*no vectorised gradient.*engine: opacus"),
        (Counter(in_place=False), r"layer 'odd' \(Counter\).*changes its buffer 'odd\.seen'"),
        (Counter(in_place=True), r"layer 'odd' \(Counter\).*in-place operation"),
    ],
    ids=["stubborn", "counter", "counter-in-place"],
)
def test_the_vectorised_engine_names_the_layer_that_it_cannot_take(layer, said) -> None:
    module = nn.Sequential()
    module.add_module("first", nn.Linear(4, 3))
    module.add_module("odd", layer)
    module.add_module("last", nn.Linear(3, 1))
    with pytest.raises(ModelError, match=said):
        trainer().check(Model(module, example=torch.zeros(1, 4)), records(3))


def test_the_vectorised_engine_needs_no_opacus() -> None:
    """It takes longer to import than a small client takes to train."""
    code = (
        "import sys, torch, numpy as np\n"
        "from codex_ray.data.dataset import Records\n"
        "from codex_ray.learning.batches import PoissonBatches\n"
        "from codex_ray.learning.dp_sgd import DpSgd\n"
        "from codex_ray.learning.models import Linear\n"
        "from codex_ray.randomness import SeedTree\n"
        "tree = SeedTree(bytes(32))\n"
        "model = Linear().build(tree, example=torch.zeros(1, 4))\n"
        "held = Records(np.ones((3, 4), np.float32), np.zeros(3, np.int64))\n"
        "rule = DpSgd(learning_rate=1, clip_norm=1, noise_multiplier=1, batch_size=1,\n"
        "             batches=PoissonBatches(sampling_rate=0.5))\n"
        "rule.check(model, held)\n"
        "rule.train(model, model.get(), held, streams=tree)\n"
        "assert 'opacus' not in sys.modules and 'dp_accounting' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_instance_norm_with_running_statistics_is_named() -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True))
    with pytest.raises(ModelError, match=r"running|buffer"):
        Model(nn.Sequential(module, nn.Flatten(), nn.Linear(4, 1)), example=torch.zeros(1, 4))
