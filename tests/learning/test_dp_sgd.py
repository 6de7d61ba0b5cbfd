"""DP-SGD does what its event claims, and keeps Opacus' traps shut."""

from __future__ import annotations

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


@pytest.mark.parametrize("source", [Linear(), Mlp(hidden=(6,))], ids=["linear", "mlp"])
def test_the_update_is_that_of_the_algorithm_by_hand(source) -> None:
    made, held, rule = model(source), records(20), trainer()
    start = made.get()
    streams = TREE.child("client", 0)
    update = rule.train(made, start, held, streams=streams)
    expected = by_hand(model(source), start, held, rule, streams)
    torch.testing.assert_close(update, expected, rtol=2e-5, atol=2e-6)


def test_no_record_moves_the_sum_by_more_than_the_clip_norm() -> None:
    """With the noise taken away, adding one record moves one step by at most lr C / batch_size."""
    rule = trainer(noise_multiplier=1e-12, batches=PoissonBatches(sampling_rate=1.0, steps=1))
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_record_counts_as_zero(bad) -> None:
    """Trap O7: without the guard one such record makes every parameter NaN."""
    rule = trainer(batches=PoissonBatches(sampling_rate=1.0, steps=1))
    made, held = model(), records(6)
    start = made.get()
    held.features[2, 1] = bad
    update = rule.train(made, start, held, streams=TREE)
    assert torch.isfinite(update).all()
    kept = Records(np.delete(held.features, 2, 0), np.delete(held.labels, 2, 0))
    torch.testing.assert_close(update, rule.train(made, start, kept, streams=TREE))


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    """Trap O6."""
    rule = trainer(batches=PoissonBatches(sampling_rate=1e-9, steps=1))
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


def test_training_again_needs_no_new_hooks() -> None:
    """Trap O11."""
    rule, made = trainer(), model()
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
        trainer().check(made, records(2))


def test_instance_norm_with_running_statistics_is_named() -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True))
    with pytest.raises(ModelError, match=r"running|buffer"):
        Model(nn.Sequential(module, nn.Flatten(), nn.Linear(4, 1)), example=torch.zeros(1, 4))
