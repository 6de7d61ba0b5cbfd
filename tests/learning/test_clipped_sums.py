"""Our clipped sums are those of Opacus, however a model, a batch or a chunk is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.learning import clipped_sums, per_record
from codex_ray.learning.clipped_sums import clipped_gradients, clipped_sum
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.ghost import GhostSums
from codex_ray.learning.layered import Layered
from codex_ray.learning.models import Model
from codex_ray.learning.per_example import HookedSums
from codex_ray.learning.per_record import PerRecord, kernel_of

IMAGE = (2, 9, 9)


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 5, 2, dilation=2, bias=False), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(162, 7), nn.Tanh()), nn.Linear(7, 3))


def places() -> nn.Module:
    """Linear layers that are used at many places of an example, one of them without a bias."""
    return nn.Sequential(
        nn.Linear(9, 4, bias=False), nn.Tanh(), nn.Linear(4, 2), nn.Flatten(), nn.Linear(36, 3)
    )


def binary() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(162, 1))


def normed() -> nn.Module:
    """No plain stack: it goes through vmap."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)
    )


STACKS = [conv, mlp, places, binary]
named = pytest.mark.parametrize("build", [*STACKS, normed], ids=lambda f: f.__name__)


def model(build) -> Model:
    torch.manual_seed(0)
    made = Model(build(), example=torch.zeros(1, *IMAGE))
    made.module.train()
    return made


def batch(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, *IMAGE)) * rng.uniform(0.05, 4, (count, 1, 1, 1))
    return {
        "features": torch.from_numpy(features.astype(np.float32)),
        "labels": torch.from_numpy(rng.integers(0, 2, count)),
    }


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    assert float((one - other).norm()) <= tolerance * float(other.norm())


@named
def test_stacks_have_a_kernel_of_their_own_and_others_go_through_vmap(build) -> None:
    assert isinstance(kernel_of(model(build)), Layered if build in STACKS else PerRecord)


@named
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("oracle", [HookedSums, GhostSums])
def test_a_sum_is_that_of_opacus(build, share, oracle) -> None:
    """The bar is 2e-5, with none, half and all of the examples clipped."""
    if (build, oracle) == (places, GhostSums):
        pytest.skip("Opacus has no norms of linear layers on four axes")
    ours, theirs, data = model(build), model(build), batch(70)
    norms = kernel_of(ours)(ours.get(), data["features"], data["labels"]).squared_norms().sqrt()
    clip = float(torch.quantile(norms, 1 - share)) * {0: 1.01, 0.5: 1, 1: 0.99}[share]
    found, clipping = clipped_sum(ours, ours.get(), clip_norm=clip, **data)
    expected, counted = oracle(theirs, clip)(theirs.get(), data["features"], data["labels"])
    close(found, expected, 2e-5)
    assert clipping == counted == Clipping(70, round(70 * share), 0)


@pytest.mark.parametrize("build", STACKS, ids=lambda f: f.__name__)
def test_a_stack_has_the_gradients_that_vmap_finds(build) -> None:
    made, data = model(build), batch(13)
    one = kernel_of(made)(made.get(), data["features"], data["labels"])
    other = PerRecord(made.module)(made.get(), data["features"], data["labels"])
    close(one.rows(), other.rows(), 1e-6)
    close(one.squared_norms(), other.rows().square().sum(1), 1e-6)
    factors = torch.linspace(-1, 2, 13)
    close(one.weighted_sum(factors), factors @ other.rows(), 1e-6)
    lost = torch.arange(13) % 3 == 0
    kept = torch.where(lost[:, None], 0.0, other.rows())
    close(one.without(lost).rows(), kept, 1e-6)
    close(other.without(lost).rows(), kept, 1e-6)


@named
@pytest.mark.parametrize("count", [1, 5, 64, 65, 130])
def test_padding_and_chunks_change_nothing(build, count, monkeypatch) -> None:
    """The bar is 1e-6."""
    made, data = model(build), batch(count)
    expected, clipping = clipped_sum(made, made.get(), clip_norm=0.7, **data)
    for multiple in (8, 64):
        padded, counted = clipped_sum(made, made.get(), clip_norm=0.7, multiple=multiple, **data)
        close(padded, expected, 1e-6)
        assert counted == clipping
    monkeypatch.setattr(clipped_sums, "CHUNK", 7)
    chunked, counted = clipped_sum(made, made.get(), clip_norm=0.7, **data)
    close(chunked, expected, 1e-6)
    assert counted == clipping


@named
def test_the_gradients_one_by_one_are_clipped_and_make_the_sum(build) -> None:
    made, data = model(build), batch(70)
    data["features"][66] = float("inf")
    chunks = list(clipped_gradients(made, made.get(), clip_norm=0.3, **data))
    assert [len(chunk) for chunk in chunks] == [64, 6]
    rows = torch.cat(chunks)
    assert float(rows.norm(dim=1).max()) <= 0.3 * (1 + 1e-6)
    assert not rows[66].any() and rows[65].any()
    close(clipped_sum(made, made.get(), clip_norm=0.3, **data)[0], rows.sum(0), 1e-6)


@named
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_examples_count_as_zero_and_are_counted(build, bad) -> None:
    made, data = model(build), batch(20)
    data["features"][3] = bad
    data["features"][19, 0, 4, 4] = bad
    found, clipping = clipped_sum(made, made.get(), clip_norm=0.7, multiple=8, **data)
    good = {name: value[torch.arange(20) % 16 != 3] for name, value in data.items()}
    expected, others = clipped_sum(made, made.get(), clip_norm=0.7, **good)
    close(found, expected, 1e-6)
    assert clipping == others + Clipping(2, 0, 2)


def test_no_examples_add_up_to_zero() -> None:
    made = model(conv)
    found, clipping = clipped_sum(made, made.get(), clip_norm=1.0, **batch(0))
    assert not found.any() and len(found) == made.dimension and clipping == Clipping()


@named
def test_no_example_moves_the_sum_by_more_than_the_clip_norm(build) -> None:
    made, data = model(build), batch(9)
    fewer = {name: value[1:] for name, value in data.items()}
    one, other = (clipped_sum(made, made.get(), clip_norm=0.01, **d)[0] for d in (data, fewer))
    assert 0.0099 < float((one - other).norm()) <= 0.01 * (1 + 1e-4)


class Mixing(nn.Module):
    """Takes the mean of the batch away: one example would show in every gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True) if len(x) > 1 else x


def test_a_layer_that_mixes_examples_finds_nothing_to_mix() -> None:
    mixing = model(lambda: nn.Sequential(nn.Flatten(), Mixing(), nn.Linear(162, 3)))
    apart = model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(162, 3)))
    data = batch(11)
    found, expected = (clipped_sum(m, m.get(), clip_norm=0.7, **data)[0] for m in (mixing, apart))
    close(found, expected, 1e-6)


class Loud(nn.Linear):
    """A subclass may do anything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def shared() -> nn.Module:
    layer = nn.Linear(162, 162)
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), layer, nn.Linear(162, 3))


def frozen() -> nn.Module:
    module = mlp()
    module[1][0].weight.requires_grad_(False)
    return module


def weighted() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(162, 3)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Flatten(), Loud(162, 3)),
        lambda: nn.Sequential(nn.Conv2d(2, 4, 9, groups=2), nn.Flatten(), nn.Linear(4, 3)),
        shared,
        frozen,
        weighted,
    ],
    ids=["subclass", "groups", "shared", "frozen", "weight-norm"],
)
def test_what_only_looks_like_a_stack_is_taken_apart_by_vmap(build) -> None:
    made, data = model(build), batch(6)
    assert isinstance(kernel_of(made), PerRecord)
    found, _ = clipped_sum(made, made.get(), clip_norm=1e6, **data)
    made.module.zero_grad()
    logits = made.module(data["features"])
    nn.functional.cross_entropy(logits, data["labels"], reduction="sum").backward()
    grads = [p.grad.flatten() for p in made.module.parameters() if p.requires_grad]
    close(found, torch.cat(grads), 1e-5)


def test_dropout_draws_for_each_example_and_from_the_keyed_generator() -> None:
    made = model(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.GroupNorm(1, 162), nn.Linear(162, 3)
        )
    )
    data = {name: value[:1].repeat(4, *[1] * (value.ndim - 1)) for name, value in batch(1).items()}
    sums = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sums.append(torch.cat(list(clipped_gradients(made, made.get(), clip_norm=9.0, **data))))
    assert torch.equal(sums[0], sums[1]) and not torch.equal(sums[0], sums[2])
    assert not torch.equal(sums[0][0], sums[0][1])


def test_a_kernel_lives_as_long_as_its_model() -> None:
    made = model(mlp)
    kernel_of(made)
    held = len(per_record._KERNELS)
    del made
    assert len(per_record._KERNELS) < held


def test_check_takes_every_model_here() -> None:
    held = Records(np.zeros((2, *IMAGE), np.float32), np.zeros(2, np.int64))
    for build in (*STACKS, normed, shared, frozen):
        per_record.check_model(model(build), held)
