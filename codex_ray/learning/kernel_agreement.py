"""How far our clipped sums and steps of DP-SGD are from those of Opacus, and from each other.

On four models: two plain stacks, a convolutional network and one with a group norm, which takes
the path for any module. Half of the examples are longer than the clip norm. Everything is a
distance relative to what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.clipped_sums import clipped_sum
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Model, given_model
from codex_ray.learning.per_record import kernel_of
from codex_ray.learning.trainers import as_tensors
from codex_ray.randomness import SeedTree

SIDE: Final = 28
CLASSES: Final = 10
PADDED_TO: Final = 32
PIECES: Final = (7, 64)
"""Examples that go through at a time when a batch is cut."""


def logistic() -> nn.Module:
    """A linear model of 7850 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))


def mlp() -> nn.Module:
    """One hidden layer, 50 890 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def cnn() -> nn.Module:
    """The convolutional network of 26 010 parameters that MNIST results are given for.

    Tramer & Boneh 2021 (arXiv:2011.11660), table 8.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.Tanh(), nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2), nn.Tanh(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, CLASSES),
    )  # fmt: skip


def normed() -> nn.Module:
    """A convolution and a group norm: no plain stack, so its gradients are taken by vmap."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=3), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, CLASSES),
    )  # fmt: skip


MODELS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "logistic": logistic,
    "MLP": mlp,
    "CNN": cnn,
    "group norm": normed,
}


@dataclass(frozen=True)
class Agreement:
    """Relative distances of one model's sums and updates.

    Attributes:
        hooks, ghost: our clipped sum from those of Opacus' two engines.
        update: three steps of DP-SGD, noise included, from those through Opacus' hooks.
        padded: the sum of padded chunks from the plain one.
        cut: the sum of a batch that goes through in pieces from that of the whole.
    """

    hooks: float
    ghost: float
    update: float
    padded: float
    cut: float


def agreement(name: str, streams: SeedTree, *, examples: int) -> Agreement:
    """The agreement of the model of that name on so many normal examples.

    Each engine has a model of its own: Opacus leaves hooks on one.
    """
    from codex_ray.learning.ghost import GhostSums  # Opacus takes long to import
    from codex_ray.learning.per_example import HookedSums

    records = _records(streams, examples)
    features, labels = as_tensors(records)
    ours, hooked, ghost = (_model(name, streams) for _ in range(3))
    params = ours.get()
    norms = kernel_of(ours)(params, features, labels).squared_norms().sqrt()
    clip_norm = float(norms.median())

    def sum_of(part: slice, multiple: int = 1) -> torch.Tensor:
        batch = {"features": features[part], "labels": labels[part]}
        found, _ = clipped_sum(ours, params, clip_norm=clip_norm, multiple=multiple, **batch)
        return found

    whole = sum_of(slice(None))
    in_pieces = [
        sum((sum_of(slice(at, at + size)) for at in range(0, examples, size)), start=whole * 0)
        for size in PIECES
    ]
    return Agreement(
        hooks=_off(whole, HookedSums(hooked, clip_norm)(params, features, labels)[0]),
        ghost=_off(whole, GhostSums(ghost, clip_norm)(params, features, labels)[0]),
        update=_updates_off(name, records, clip_norm=clip_norm, streams=streams),
        padded=_off(sum_of(slice(None), PADDED_TO), whole),
        cut=max(_off(pieces, whole) for pieces in in_pieces),
    )


def _updates_off(name: str, records: Records, *, clip_norm: float, streams: SeedTree) -> float:
    """How far three noised steps by our kernel end from the same three through Opacus' hooks."""
    rule = DpSgd(
        learning_rate=0.5,
        clip_norm=clip_norm,
        noise_multiplier=1.0,
        batch_size=len(records) / 2,
        batches=PoissonBatches(sampling_rate=0.5, steps=3),
    )
    updates = []
    for engine in ("vectorised", "opacus"):
        model = _model(name, streams)
        trainer = rule.model_copy(update={"engine": engine})
        drawn = streams.child("client")
        updates.append(trainer.train(model, model.get(), records, streams=drawn))
    return _off(*updates)


def _model(name: str, streams: SeedTree) -> Model:
    made = given_model(MODELS[name], streams, example=torch.zeros(1, 1, SIDE, SIDE), name=name)
    made.module.train()
    return made


def _records(streams: SeedTree, count: int) -> Records:
    """Normal images [count, 1, 28, 28] whose lengths differ by a factor of eighty, and labels."""
    pixels = streams.stream("features").normal(count * SIDE * SIDE)
    widths = np.geomspace(0.05, 4.0, count).reshape(count, 1, 1, 1)
    images = widths * pixels.reshape(count, 1, SIDE, SIDE)
    labels = streams.stream("labels").permutation(count) % CLASSES
    return Records(images.astype(np.float32), labels.astype(np.int64))


def _off(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far `one` is from `other`, in lengths of the latter."""
    return float((one - other).norm() / other.norm())
