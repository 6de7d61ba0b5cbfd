"""Hospitals together take the step of central DP-SGD, and no record moves it beyond the bound."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
import torch

from codex_ray.data.dataset import Records
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.clipped_sums import clipped_sum
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.models import Mlp, Model
from codex_ray.learning.trainers import as_tensors
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.noise_inside import rounded_sum
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(bytes(range(32)))
RULE = DistributedDpSgd(learning_rate=2.0, clip_norm=0.5, sampling_rate=0.4, batch_size=30)
HOSPITALS = (20, 0, 45, 7)


def records(n: int, seed: int) -> Records:
    rng = np.random.default_rng(seed)
    return Records(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 2, n))


def model() -> Model:
    return Mlp(hidden=(5,)).build(TREE, example=torch.zeros(1, 4))


def codec(made: Model, *, bits: int = 24, noise: float = 0.5) -> Codec:
    chosen = Encoding(bits=bits, rounding="stochastic", rotate=True)
    bound = RULE.clip_norm
    return Codec(chosen, made.dimension, RULE.summands, bound, clip_norm=bound, noise=noise)


def sampled(held: Records, client: int) -> Records:
    rule = PoissonBatches(sampling_rate=RULE.sampling_rate)
    (batch,) = rule.draw(len(held), TREE.child("train", client).stream("batches"))
    return Records(held.features[batch], held.labels[batch])


def test_the_hospitals_sum_is_the_clipped_sum_of_the_pooled_batch() -> None:
    made, held = model(), [records(n, seed) for seed, n in enumerate(HOSPITALS)]
    start = made.get()
    steps = [RULE.train(made, start, r, streams=TREE.child("train", c)) for c, r in enumerate(held)]
    batches = [sampled(r, c) for c, r in enumerate(held)]
    pooled = Records(
        *(np.concatenate([getattr(b, f) for b in batches]) for f in ("features", "labels"))
    )
    assert len(pooled) > 10
    features, labels = as_tensors(pooled)
    expected, _ = clipped_sum(made, start, features=features, labels=labels, clip_norm=0.5)
    torch.testing.assert_close(sum(steps), -expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_rounded_sums_add_up_in_words_to_that_sum(bits) -> None:
    made, held = model(), [records(n, seed) for seed, n in enumerate(HOSPITALS)]
    grid, start = codec(made, bits=bits), made.get()
    rotation = grid.rotation(TREE.stream("rotation"))
    total, plain = no_words(grid.length, bits=bits), torch.zeros(made.dimension)
    count = 0
    for client, r in enumerate(held):
        streams = TREE.child("train", client)
        steps = list(RULE.steps(made, start, r, streams=streams, clip_norm=grid.allowed_norm))
        count += sum(len(chunk) for chunk in steps)
        total += rounded_sum(steps, grid, rotation=rotation, draws=TREE.stream("draws", client))
        plain += sum((chunk.sum(0) for chunk in steps), torch.zeros(made.dimension))
    found = grid.decode(reduce_words(total, bits), rotation=rotation)
    # A rounded coordinate errs by at most half a step in standard deviation.
    allowed = 5 * grid.grid.step * math.sqrt(count * grid.width) / 2 + 1e-5
    assert float((found - plain).norm()) < allowed
    assert bits == 16 or allowed < 0.1 * float(plain.norm())


def test_one_record_more_moves_the_words_by_the_bound_at_most() -> None:
    """On a coarse grid, where rounding could lengthen a step beyond it."""
    made, held, start = model(), records(60, 0), model().get()
    grid = codec(made, bits=16, noise=60.0)
    limit = RULE.clip_norm / grid.grid.step
    assert limit < math.sqrt(grid.width) * 12
    rotation, rule = grid.rotation(TREE.stream("r")), RULE.model_copy(update={"sampling_rate": 1.0})
    norms = []
    for fewer in range(20, 60):
        words = []
        for count in (fewer, fewer + 1):
            some = Records(held.features[:count], held.labels[:count])
            steps = rule.steps(made, start, some, streams=TREE, clip_norm=grid.allowed_norm)
            words.append(rounded_sum(steps, grid, rotation=rotation, draws=TREE.stream("draws")))
        moved = grid.grid.integers(reduce_words(words[1] - words[0], 16))
        norms.append(float(moved.norm()))
    assert 0.8 * limit < max(norms) <= limit


def test_steps_leave_the_room_that_rounding_needs() -> None:
    made, grid = model(), codec(model(), bits=16, noise=60.0)
    steps = RULE.steps(made, made.get(), records(60, 0), streams=TREE, clip_norm=grid.allowed_norm)
    norms = torch.cat(list(steps)).double().norm(dim=1)
    assert 0.99 * grid.allowed_norm < float(norms.max()) <= grid.allowed_norm * (1 + 1e-6)
    assert grid.allowed_norm < (1 - 1e-4) * RULE.clip_norm


def test_a_bad_record_counts_as_zero() -> None:
    made, held = model(), records(30, 1)
    rule = RULE.model_copy(update={"sampling_rate": 1.0})
    held.features[4, 2] = float("nan")
    kept = Records(np.delete(held.features, 4, 0), np.delete(held.labels, 4, 0))
    one, other = (rule.train(made, made.get(), r, streams=TREE) for r in (held, kept))
    torch.testing.assert_close(one, other)


def test_a_client_without_records_adds_zero_words() -> None:
    made = model()
    grid = codec(made)
    steps = RULE.steps(made, made.get(), records(0, 0), streams=TREE)
    words = rounded_sum(
        steps, grid, rotation=grid.rotation(TREE.stream("r")), draws=TREE.stream("d")
    )
    assert words.shape == (grid.length,) and not words.any()


def test_what_the_sum_is_divided_by_is_public() -> None:
    assert RULE.divisor == 15 and RULE.summands == 63
    assert RULE.event() is None


def test_the_event_is_that_of_the_batch_that_is_drawn() -> None:
    event = RULE.sampled(dp_accounting.GaussianDpEvent(2.0))
    assert event == dp_accounting.PoissonSampledDpEvent(0.4, dp_accounting.GaussianDpEvent(2.0))
    made, held = model(), records(4000, 3)
    (counts,) = np.array([[len(sampled(held, c)) for c in range(40)]])
    assert abs(counts.mean() - 1600) < 5 * math.sqrt(4000 * 0.24 / 40)
    assert counts.std() == pytest.approx(math.sqrt(4000 * 0.24), rel=0.6)
    found = sum(len(c) for c in RULE.steps(made, made.get(), held, streams=TREE.child("train", 5)))
    assert found == counts[5]
