"""Batches are drawn as their event claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from codex_ray.errors import ConfigError
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.randomness import SeedTree

TREE = SeedTree(bytes(32))


def test_poisson_batches_are_independent_coins_at_the_rate() -> None:
    rule = PoissonBatches(sampling_rate=0.3, steps=4000)
    seen = np.zeros((4000, 12))
    for step, batch in enumerate(rule.draw(12, TREE.stream("batches"))):
        seen[step, batch] = 1
    sizes = seen.sum(axis=1).astype(int)
    expected = 4000 * stats.binom.pmf(np.arange(13), 12, 0.3)
    counts = np.bincount(sizes, minlength=13).astype(float)
    keep = expected > 5
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-3
    assert np.abs(np.corrcoef(seen.T) - np.eye(12)).max() < 0.08
    assert sizes.min() == 0, "an empty batch is a step like any other"


def test_poisson_event_counts_its_steps() -> None:
    event = PoissonBatches(sampling_rate=0.3, steps=7).event(2.0)
    assert event.count == 7
    assert event.event.sampling_probability == 0.3
    assert event.event.event.noise_multiplier == 2.0


def test_shuffled_batches_show_every_record_once_an_epoch() -> None:
    batches = ShuffledBatches(batch_size=4, epochs=3).draw(10, TREE.stream("batches"))
    assert [len(b) for b in batches] == [4, 4, 2] * 3
    for epoch in range(3):
        shown = np.concatenate(batches[3 * epoch : 3 * epoch + 3])
        assert sorted(shown) == list(range(10))


def test_shuffled_batches_have_no_event() -> None:
    with pytest.raises(ConfigError, match="no sound privacy accounting"):
        ShuffledBatches().event(1.0)
