"""Adaptive clipping: the clip norm finds its quantile, and the event is that of both releases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codex_ray.errors import ConfigError
from codex_ray.privacy import adaptive_clipping
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum, Residues

TREE = SeedTree(b"adaptive" * 4)
D = 64


def updates_of_norms(norms) -> torch.Tensor:
    drawn = torch.randn(len(norms), D, generator=torch.Generator().manual_seed(1))
    return drawn / drawn.norm(dim=1, keepdim=True) * torch.tensor(norms)[:, None]


def summed(mechanism, codec: Codec, updates, state) -> GroupSum:
    words: Residues = sum(mechanism.encode(update, codec, state=state) for update in updates)
    return GroupSum(tuple(range(len(updates))), words)


def one_round(mechanism, updates, state, *, round: int = 0):
    codec = mechanism.codec(dimension=D, summands=len(updates))
    group = summed(mechanism, codec, updates, state)
    noise = TREE.stream("noise", round)
    return mechanism.release(group, codec=codec, expected=len(updates), noise=noise, state=state)


@pytest.mark.parametrize("z", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("count_noise", [1.2, 5.0, 50.0])
def test_both_releases_together_have_the_noise_multiplier(z, count_noise) -> None:
    mechanism = AdaptiveGaussian(noise_multiplier=z, count_noise=count_noise)
    update, bits = mechanism.update_noise(100), count_noise / adaptive_clipping.BIT_SENSITIVITY
    assert (update**-2 + bits**-2) ** -0.5 == pytest.approx(z, rel=1e-6)
    assert mechanism.event().noise_multiplier == z


def test_the_noise_that_is_added_is_the_noise_that_is_charged() -> None:
    """Measured over many rounds of nobody: on the update, and on the centred count."""
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, initial_clip=0.5, count_noise=0.7)
    codec = mechanism.codec(dimension=D, summands=4)
    group = GroupSum((), np.zeros(codec.length, dtype=np.uint32))
    released = [
        mechanism.release(
            group,
            codec=codec,
            expected=4.0,
            noise=TREE.stream("nobody", n),
            state=mechanism.init(),
        )
        for n in range(2000)
    ]
    on_update = torch.stack([one.update for one in released]).std().item() * 4 / 0.5
    on_count = np.std([4 * (0.5 - one.privacy["clipped_fraction"]) for one in released])
    assert on_update == pytest.approx(mechanism.update_noise(4.0), rel=0.01)
    assert on_count == pytest.approx(0.7, rel=0.08)
    joint = (on_update**-2 + (on_count / 0.5) ** -2) ** -0.5
    assert joint == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("bit", [True, False])
def test_one_client_more_moves_the_centred_count_by_half(bit) -> None:
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, initial_clip=1.0, count_noise=2.0)
    state, norms = mechanism.init(), [0.5, 0.5, 3.0]
    fewer = one_round(mechanism, updates_of_norms(norms), state)
    more = mechanism.release(
        summed(
            mechanism,
            mechanism.codec(dimension=D, summands=4),
            updates_of_norms([*norms, 0.5 if bit else 3.0]),
            state,
        ),
        codec=mechanism.codec(dimension=D, summands=4),
        expected=3,
        noise=TREE.stream("noise", 0),
        state=state,
    )
    moved = 3 * (fewer.privacy["clipped_fraction"] - more.privacy["clipped_fraction"])
    assert moved == pytest.approx(adaptive_clipping.BIT_SENSITIVITY * (1 if bit else -1))


@pytest.mark.parametrize(
    ("quantile", "initial"),
    [(0.2, 0.01), (0.5, 100.0), pytest.param(0.8, 0.01, marks=pytest.mark.slow)],
)
def test_the_clip_norm_finds_the_quantile(quantile, initial) -> None:
    mechanism = AdaptiveGaussian(
        noise_multiplier=0.1,
        initial_clip=initial,
        quantile=quantile,
        count_noise=1.0,
        learning_rate=1.2,
    )
    norms = np.exp(np.random.default_rng(3).normal(size=80)).astype(np.float32)
    updates, state, seen = updates_of_norms(norms), mechanism.init(), []
    for round_ in range(36):
        state = one_round(mechanism, updates, state, round=round_).state
        seen.append(state[0])
    settled = np.exp(np.mean(np.log(seen[22:])))
    assert settled == pytest.approx(np.quantile(norms, quantile), rel=0.1)


def test_it_follows_geometrically_from_the_noised_fraction() -> None:
    mechanism = AdaptiveGaussian(noise_multiplier=0.5, initial_clip=1.0, count_noise=1.0)
    released = one_round(mechanism, updates_of_norms([0.5] * 30), mechanism.init())
    fraction = 1 - released.privacy["clipped_fraction"]
    assert released.state[0] == pytest.approx(math.exp(-0.2 * (fraction - 0.5)), rel=1e-6)
    assert released.state[0] == float(np.float32(released.state[0]))


def test_it_stays_within_its_bounds() -> None:
    mechanism = AdaptiveGaussian(
        noise_multiplier=0.5, initial_clip=1.0, count_noise=1.0, smallest_clip=0.99, learning_rate=9
    )
    assert one_round(mechanism, updates_of_norms([0.1] * 30), (1.0,)).state[0] == np.float32(0.99)


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(bits=20, rounding="stochastic")])
def test_no_summand_is_longer_than_the_clip_norm_of_its_round(encoding) -> None:
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, count_noise=2.0, encoding=encoding)
    codec = mechanism.codec(dimension=D, summands=10)
    for client, update in enumerate(updates_of_norms([1e-3, 0.3, 5.0, 1e6])):
        words = mechanism.encode(update, codec, state=(0.3,), draws=TREE.stream("d", client))
        assert mechanism.sent_norm(words, codec, state=(0.3,)) <= 0.3 * (1 + 1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_no_number_becomes_zero_and_counts_as_clipped(bad) -> None:
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, count_noise=2.0)
    codec = mechanism.codec(dimension=3, summands=10)
    words = mechanism.encode(torch.tensor([0.1, bad, 0.2]), codec, state=mechanism.init())
    assert not words.any()


def test_noise_on_the_count_that_eats_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"count_noise is 0\.5.* set it above 0.5"):
        AdaptiveGaussian(noise_multiplier=1.0).codec(dimension=4, summands=10, expected=10.0)
    AdaptiveGaussian(noise_multiplier=1.0, count_noise=0.6).codec(dimension=4, summands=10)


def test_a_first_clip_norm_outside_the_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="initial_clip is 3"):
        AdaptiveGaussian(noise_multiplier=1.0, initial_clip=3, largest_clip=2)


def test_mutation_charging_the_count_half_what_it_costs_shows(monkeypatch) -> None:
    """The sum of bits of 0 and 1 has sensitivity 1: with it the joint multiplier is another."""
    honest = AdaptiveGaussian(noise_multiplier=1.0, count_noise=1.0).update_noise(1)
    monkeypatch.setattr(adaptive_clipping, "BIT_SENSITIVITY", 1.0)
    with pytest.raises(ConfigError):
        AdaptiveGaussian(noise_multiplier=1.0, count_noise=1.0).update_noise(1)
    assert honest == pytest.approx(1.1547, rel=1e-4)


def test_without_a_learning_rate_it_only_watches() -> None:
    """The clip norm stays, and how much is clipped is told under the same epsilon."""
    watching = AdaptiveGaussian(
        noise_multiplier=1.0, initial_clip=0.5, count_noise=2.0, learning_rate=0
    )
    codec = watching.codec(dimension=3, summands=8)
    group = GroupSum((0,), watching.encode(torch.tensor([3.0, 0.0, 0.0]), codec))
    stream = TREE.stream("release", 0)
    released = watching.release(group, codec=codec, expected=8, noise=stream)
    assert released.state == watching.init() and "clipped_fraction" in released.privacy
