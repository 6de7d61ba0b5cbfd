"""Streams are named: the same name gives the same draws, another name unrelated ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from codex_ray.randomness import Randomness, SeedTree, Stream

TREE = SeedTree(bytes(range(32)))
KNOWN_KEY = "ce3580d8415f93d0"
KNOWN_WORD = 1243168990318739322
NAMES = st.lists(
    st.one_of(st.text(max_size=5), st.integers(-(2**64), 2**64), st.binary(max_size=5)), max_size=4
).map(tuple)


def test_a_name_is_its_stream() -> None:
    assert TREE.stream("noise", 3, 7).bytes(64) == TREE.stream("noise", 3, 7).bytes(64)


@given(NAMES, NAMES)
def test_two_names_never_share_a_key(one, other) -> None:
    assert (TREE.key(*one) == TREE.key(*other)) == (
        [(type(n), n) for n in one] == [(type(n), n) for n in other]
    )


def test_known_answer() -> None:
    """Keys and draws are part of every seeded result: a change of them is a change of results."""
    tree = Randomness.of(7).secret
    assert tree.key("noise", 1).hex()[:16] == KNOWN_KEY
    assert tree.stream("noise", 1).words(1)[0] == KNOWN_WORD


def test_different_clients_and_rounds_have_unrelated_noise() -> None:
    draws = np.array([TREE.stream("train", r, c).normal(4000) for r in range(3) for c in range(4)])
    correlation = np.corrcoef(draws) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_normals_are_normal() -> None:
    draws = TREE.stream("normal").normal(200_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(np.mean(draws**4) - 3) < 0.1


def test_uniforms_are_uniform_and_never_an_end() -> None:
    draws = TREE.stream("uniform").uniform(200_000)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert draws.min() > 0 and draws.max() < 1


def test_permutations_are_uniform() -> None:
    stream = TREE.stream("permutation")
    counts = np.zeros((4, 4))
    for _ in range(4000):
        counts[np.arange(4), stream.permutation(4)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_an_unseeded_run_draws_its_secrets_anew_and_its_splits_alike() -> None:
    one, other = Randomness.of(None), Randomness.of(None)
    assert one.secret.root != other.secret.root
    assert one.public == other.public == Randomness.of(0).public


def test_public_streams_say_nothing_of_secret_ones() -> None:
    seeded = Randomness.of(5)
    assert seeded.public.root != seeded.secret.root
    assert seeded.public.key("noise") != seeded.secret.key("noise")


@pytest.mark.parametrize("shown", [repr(TREE), str(Randomness.of(None)), f"{Randomness.of(3)}"])
def test_roots_are_never_shown(shown: str) -> None:
    assert "root" not in shown
    assert TREE.root.hex() not in shown and repr(TREE.root) not in shown


def test_a_stream_goes_on_where_it_stopped() -> None:
    whole, parts = Stream(bytes(32)), Stream(bytes(32))
    assert whole.bytes(100) == b"".join(parts.bytes(n) for n in (1, 15, 16, 68))
