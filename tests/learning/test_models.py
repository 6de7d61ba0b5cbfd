"""Models are one vector, whatever module is inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory
from codex_ray.errors import DataError, ModelError
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.evaluation import evaluate
from codex_ray.learning.models import Linear, Mlp, Model, PythonModel, given_model
from codex_ray.learning.trainers import LocalTraining, Sgd, check_labels
from codex_ray.randomness import Randomness

PUBLIC = Randomness.of(1).public
EXAMPLE = torch.zeros(1, 5)


def some(n: int, *, classes: int = 2, seed: int = 0) -> Records:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = rng.normal(size=(n, 5)).astype(np.float32) + labels[:, None]
    return Records(features.astype(np.float32), labels.astype(np.int64))


def test_set_and_get_are_inverse_and_do_not_alias() -> None:
    made = Mlp(hidden=(3,), outputs=2).build(PUBLIC, example=EXAMPLE)
    vector = torch.arange(made.dimension, dtype=torch.float32)
    made.set(vector)
    assert torch.equal(made.get(), vector)
    with torch.no_grad():
        next(iter(made.module.parameters())).add_(1)
    assert torch.equal(vector, torch.arange(made.dimension, dtype=torch.float32))


def test_initial_weights_are_the_seeds_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = Mlp(outputs=2).build(PUBLIC, example=EXAMPLE).get()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, Mlp(outputs=2).build(PUBLIC, example=EXAMPLE).get())
    other = Mlp(outputs=2).build(Randomness.of(2).public, example=EXAMPLE).get()
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (42, "is a int, not a torch.nn.Module"),
        (lambda: "no", "returned str"),
        (nn.Linear(7, 1), r"does not take records of shape \(5,\)"),
        (nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)), "it must give"),
        (nn.Sequential(nn.Flatten(), nn.Tanh()), "no trainable parameters"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(given, said) -> None:
    with pytest.raises(ModelError, match=said):
        given_model(given, PUBLIC, example=EXAMPLE)


def test_a_model_comes_by_dotted_name() -> None:
    made = PythonModel(factory="tests.learning.test_models:build").build(PUBLIC, example=EXAMPLE)
    assert made.outputs == 3


def build() -> nn.Module:
    return nn.Linear(5, 3)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"client 3: label 2 does not fit a model of 1 output"):
        check_labels(some(40, classes=3), 1, where="client 3")


@pytest.mark.parametrize("classes", [2, 4])
def test_sgd_learns_and_evaluate_sees_it(classes) -> None:
    outputs = 1 if classes == 2 else classes
    made = Linear(outputs=outputs).build(PUBLIC, example=EXAMPLE)
    rule = Sgd(learning_rate=0.2, batches=ShuffledBatches(epochs=20))
    start = made.get()
    update = rule.train(made, start, some(200, classes=classes), streams=PUBLIC)
    test = some(300, classes=classes, seed=1)
    before, after = evaluate(made, start, test), evaluate(made, start + update, test)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > (0.85 if classes == 2 else 0.6)
    assert after["auc"] > 0.85


def test_sgd_takes_poisson_batches_and_skips_the_empty_ones() -> None:
    made = Linear().build(PUBLIC, example=EXAMPLE)
    rule = Sgd(learning_rate=0.2, batches=PoissonBatches(sampling_rate=1e-9, steps=3))
    assert not rule.train(made, made.get(), some(5), streams=PUBLIC).any()
    assert rule.event() is None


def test_auc_is_left_out_where_it_is_not_defined() -> None:
    made = Linear().build(PUBLIC, example=EXAMPLE)
    one_label = Records(np.zeros((3, 5), np.float32), np.ones(3, np.int64))
    assert "auc" not in evaluate(made, made.get(), one_label)


def test_an_update_depends_on_seed_round_and_client_and_not_on_its_chunk_mates() -> None:
    """Dropout layers draw from torch's global generator, which is keyed too."""
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 1))
    made = Model(module, example=EXAMPLE)
    data = InMemory([some(10, seed=s) for s in range(4)], some(5))
    local = LocalTraining(Sgd(learning_rate=0.1), made, data, Randomness.of(0).secret)
    start = made.get()
    together = local.train(start, [0, 1, 2, 3], 5)
    torch.manual_seed(99)
    for client in (3, 0, 2, 1):
        assert torch.equal(local.train(start, [client], 5)[0], together[client])
    assert not torch.equal(local.train(start, [1], 6)[0], together[1])
