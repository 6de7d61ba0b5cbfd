"""Splits are disjoint, of exact sizes, and as skewed as asked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.data.partition import dirichlet_split, draw_sizes, stratified_holdout
from codex_ray.errors import DataError


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    labels=st.lists(st.integers(0, 4), max_size=80),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 2**32),
)
def test_split_is_disjoint_exact_and_repeatable(labels, cuts, alpha, seed):
    labels = np.array(labels, dtype=np.int64)
    sizes = []
    for cut in cuts:
        sizes.append(min(cut, len(labels) - sum(sizes)))
    split = dirichlet_split(labels, sizes, alpha=alpha, rng=generator(seed))
    assert [len(part) for part in split] == sizes
    taken = np.concatenate([np.empty(0, np.int64), *split])
    assert len(np.unique(taken)) == len(taken)
    assert np.isin(taken, np.arange(len(labels))).all()
    again = dirichlet_split(labels, sizes, alpha=alpha, rng=generator(seed))
    assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))


def test_small_alpha_gives_one_label_and_large_alpha_all():
    labels = np.repeat(np.arange(5), 400)
    for alpha, bounds in ((0.01, (0.9, 1.0)), (1000.0, (0.2, 0.35))):
        split = dirichlet_split(labels, [40] * 10, alpha=alpha, rng=generator(0))
        largest = [np.bincount(labels[part], minlength=5).max() / 40 for part in split]
        assert bounds[0] <= np.mean(largest) <= bounds[1]


def test_proportions_follow_the_pool_and_leftovers_fall_to_anyone():
    labels = np.repeat([0, 1], [700, 300])
    shares = np.zeros(10)
    for seed in range(200):
        split = dirichlet_split(labels, [100] * 10, alpha=0.5, rng=generator(seed))
        shares += [labels[part].mean() / 200 for part in split]
    # One hospital's share has standard deviation below 0.5, so the mean of 200 below 0.036.
    assert np.abs(shares - 0.3).max() < 4 * 0.036


def test_split_refuses_more_than_there_is():
    with pytest.raises(DataError, match="ask for 6 records, but the pool holds 5"):
        dirichlet_split(np.zeros(5, np.int64), [3, 3], alpha=1.0, rng=generator(0))


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_holdout_keeps_proportions(labels, seed):
    labels = np.array(labels, dtype=np.int64)
    count = len(labels) // 3
    held_out, rest = stratified_holdout(labels, count, rng=generator(seed))
    assert len(held_out) == count
    assert np.array_equal(np.sort(np.concatenate([held_out, rest])), np.arange(len(labels)))
    expected = np.bincount(labels) * count / len(labels)
    assert (np.abs(np.bincount(labels[held_out], minlength=len(expected)) - expected) < 1).all()


def test_holdout_refuses_more_than_there_is():
    with pytest.raises(DataError, match="3 records to hold out of 2"):
        stratified_holdout(np.zeros(2, np.int64), 3, rng=generator(0))


@given(
    clients=st.integers(1, 20),
    low=st.integers(1, 20),
    spread=st.integers(0, 60),
    spare=st.integers(0, 900),
    seed=st.integers(0, 99),
)
def test_sizes_hold_their_bounds_and_fit_the_pool(clients, low, spread, spare, seed):
    pool = clients * low + spare
    sizes = draw_sizes(clients, (low, low + spread), pool=pool, rng=generator(seed))
    assert len(sizes) == clients
    assert all(low <= size <= low + spread for size in sizes)
    assert sum(sizes) <= pool


def test_sizes_refuse_a_pool_below_the_least():
    with pytest.raises(DataError, match="need 200 records, but there are 150"):
        draw_sizes(10, (20, 80), pool=150, rng=generator(0))
