"""Local noise: each client's own, all of it, and accounted between any two updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from scipy.stats import norm

from codex_ray.federation.charges import Charge
from codex_ray.privacy.claims import LOCAL_CLIENT
from codex_ray.privacy.ledger import EVERYONE
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum

TREE = SeedTree(b"local gaussian  " * 2)
D = 4000


def sent(mechanism, update, client=0):
    codec = mechanism.codec(dimension=len(update), summands=20)
    words = mechanism.encode(update, codec, noise=TREE.stream("noise", client))
    return codec.decode(words)


@pytest.mark.parametrize("length", [0.1, 1.0, 50.0])
def test_one_update_alone_has_all_the_noise(length) -> None:
    update = torch.full((D,), length / math.sqrt(D))
    mechanism = LocalGaussian(clip_norm=2.0, noise_multiplier=1.5)
    left = sent(mechanism, update) - update.double() * min(1, 2.0 / length)
    assert float(left.std()) == pytest.approx(3.0, rel=0.03)
    assert abs(float(left.mean())) < 4 * 3.0 / math.sqrt(D)


def test_two_clients_do_not_share_noise() -> None:
    mechanism, zero = LocalGaussian(clip_norm=1.0, noise_multiplier=1.0), torch.zeros(D)
    one, other = (sent(mechanism, zero, client).numpy() for client in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / math.sqrt(D)


def test_the_release_is_the_mean_of_those_who_are_there() -> None:
    mechanism = LocalGaussian(clip_norm=1.0, noise_multiplier=0.5)
    codec = mechanism.codec(dimension=D, summands=20)
    zero = torch.zeros(D)
    total = sum(mechanism.encode(zero, codec, noise=TREE.stream("n", c)) for c in range(16))
    released = mechanism.release(
        GroupSum(tuple(range(16)), total), codec=codec, expected=20, noise=TREE.stream("r")
    )
    assert float(released.update.std()) == pytest.approx(0.5 / 4, rel=0.05)


def test_it_is_accounted_between_any_two_updates() -> None:
    """Two clip norms apart: exactly delta(eps) of Balle & Wang 2018, theorem 8, at half the z."""
    mechanism = LocalGaussian(clip_norm=1.0, noise_multiplier=4.0)
    charge = Charge(LOCAL_CLIENT, lambda _: mechanism.event(), hidden=False)
    ledger = charge.ledger(1e-5)
    ledger.charge(charge.event(None), [EVERYONE])
    (spend,) = ledger.spends([EVERYONE], assumptions=())
    assert spend.neighbouring_relation == "replace_one"
    epsilon, half = spend.epsilon, 2.0
    delta = norm.cdf(0.5 / half - epsilon * half) - math.exp(epsilon) * norm.cdf(
        -0.5 / half - epsilon * half
    )
    assert delta == pytest.approx(1e-5, rel=0.02)
    assert mechanism.event() == GaussianDpEvent(4.0)


def test_it_asks_for_a_stream_of_its_own() -> None:
    mechanism = LocalGaussian(clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="its own secret stream"):
        mechanism.encode(torch.zeros(3), mechanism.codec(dimension=3, summands=3))
