"""The checks on noise that the clients bring: whose shares are missing, and whose are the same."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from codex_ray.assurance.checks import check_streams, check_variance
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(bytes(32))
CLIENTS, COORDINATES = 12, 100_000
KINDS = [DiscreteGaussianNoise, SkellamNoise]


@cache
def shares(kind):
    """The mechanism, the decoder of its sums, and each client's summand of an update of zero."""
    mechanism = kind(noise_multiplier=1.5, clip_norm=0.5)
    codec = mechanism.codec(dimension=COORDINATES, summands=CLIENTS, expected=float(CLIENTS))
    rotation = codec.rotation(TREE.stream("rotation"))
    sent = [
        mechanism.encode(
            torch.zeros(COORDINATES),
            codec,
            rotation=rotation,
            draws=TREE.stream("rounding", client),
            noise=TREE.stream("noise share", client),
        )
        for client in range(CLIENTS)
    ]

    def noise_of(summands) -> np.ndarray:
        total = no_words(codec.length, bits=codec.bits)
        for summand in summands:
            total = reduce_words(total + summand, codec.bits)
        return codec.decode(total, rotation=rotation).numpy()

    return mechanism, noise_of, sent


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_the_survivors_are_what_the_event_counts(kind) -> None:
    mechanism, noise_of, sent = shares(kind)
    share = 1.5 * 0.5 / np.sqrt(mechanism.honest(CLIENTS))
    assert check_variance(noise_of(sent), share * np.sqrt(CLIENTS)).passed
    lost = check_variance(noise_of(sent[:-1]), share * np.sqrt(CLIENTS))
    assert not lost.passed
    assert lost.found == pytest.approx(1 - 1 / CLIENTS, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_every_client_has_noise_of_its_own(kind) -> None:
    _, noise_of, sent = shares(kind)
    noises = np.stack([noise_of([summand]) for summand in (*sent[:3], sent[1])])
    assert check_streams(noises[:3]).passed
    verdict = check_streams(noises)
    assert not verdict.passed
    assert "1 and 3" in verdict.words
