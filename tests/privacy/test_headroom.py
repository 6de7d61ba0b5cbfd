"""Noise inside the sum: the published scale, and how often a coordinate wraps."""

from __future__ import annotations

import math

import pytest
import torch

from codex_ray.errors import ConfigError
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.headroom import (
    deviation_in_steps,
    scale_for,
    two_sided_tail,
    wrap_probability,
)
from codex_ray.privacy.rotation import Rotation
from codex_ray.privacy.rounding import norm_after
from codex_ray.randomness import SeedTree

TREE = SeedTree(b"headroom".ljust(32, b"\0"))
ROTATED = {"rotate": True, "rounding": "stochastic"}


@pytest.mark.parametrize(
    ("summands", "dimension", "bits", "inflation"),
    [
        (1000, 2**20, 14, 1.130),
        (1000, 2**20, 16, 1.009),
        (1000, 2**20, 18, 1.0006),
        (10_000, 2**17, 16, 1.36),
        (10_000, 2**17, 18, 1.027),
        (10_000, 2**17, 20, 1.002),
        (100, 2**20, 14, 1.069),
        (100, 2**20, 16, 1.0045),
    ],
)
def test_what_rounding_adds_to_the_norm_at_each_modulus(
    summands, dimension, bits, inflation
) -> None:
    """Six deviations of headroom, clip norm 1, noise multiplier 1."""
    scale = scale_for(
        bits=bits, summands=summands, clip_norm=1, noise=1, dimension=dimension, headroom=6
    )
    digits = len(str(inflation).partition(".")[2])
    assert round(norm_after(scale, dimension) / scale, digits) == inflation


@pytest.mark.parametrize(("headroom", "wrapped"), [(4, 63), (5, 0.57), (6, 0.0020), (7, 2.6e-6)])
def test_wrapped_coordinates_a_round_at_a_million(headroom, wrapped) -> None:
    assert 10**6 * two_sided_tail(headroom) == pytest.approx(wrapped, rel=0.02)


@pytest.mark.parametrize("headroom", [3.0, 4.5, 6.0])
def test_the_scale_leaves_just_the_headroom_that_was_asked_for(headroom) -> None:
    setting = {"bits": 16, "summands": 300, "clip_norm": 0.7, "noise": 2.0, "dimension": 4096}
    scale = scale_for(**setting, headroom=headroom)
    without_bits = {key: value for key, value in setting.items() if key != "bits"}
    assert 2**15 / deviation_in_steps(**without_bits, scale=scale) == pytest.approx(headroom)
    expected = min(1.0, 4096 * two_sided_tail(headroom))
    assert wrap_probability(**setting, scale=scale) == pytest.approx(expected)


def test_rounds_wrap_as_often_as_is_computed() -> None:
    """Updates that are all alike, the worst case, rotated and noised, in whole steps."""
    d, n, rounds, bits = 64, 50, 3000, 16
    setting = {"bits": bits, "summands": n, "clip_norm": 1.0, "noise": 20.0, "dimension": d}
    scale = scale_for(**setting, headroom=3.2)
    update = torch.from_numpy(TREE.stream("update").normal(d))
    update /= update.norm()
    wrapped = 0
    for number in range(rounds):
        rotation = Rotation.drawn(TREE.stream("rotation", number), dimension=d)
        noise = torch.from_numpy(TREE.stream("noise", number).normal(d)) * 20.0
        steps = (scale * (n * rotation.forward(update) + noise)).round()
        wrapped += bool((steps.abs() >= 2 ** (bits - 1)).any())
    claimed = wrap_probability(**setting, scale=scale)
    assert claimed == pytest.approx(0.088, abs=1e-3)
    assert 0.75 * claimed < wrapped / rounds < claimed + 4 * math.sqrt(claimed / rounds)


def test_rounding_alone_may_fill_the_words() -> None:
    with pytest.raises(ValueError, match="fills 16 bits"):
        scale_for(bits=16, summands=2**27, clip_norm=1, noise=1, dimension=8, headroom=6)


def noised(**changes) -> Codec:
    chosen = {"bits": 16, **ROTATED} | changes.pop("encoding", {})
    setting = {"dimension": 10**6, "summands": 1000, "bound": 1.0, "clip_norm": 1.0, "noise": 1.0}
    return Codec(Encoding(**chosen), **(setting | changes))


def test_a_codec_with_noise_inside_knows_its_chance_to_wrap() -> None:
    codec = noised()
    assert codec.wrap_probability == pytest.approx(2**20 * two_sided_tail(6))
    assert codec.wrap_probability < 0.01 and 1 / codec.grid.step == pytest.approx(3907, rel=1e-3)
    assert codec.allowed_norm / codec.clip_norm == pytest.approx(1 / 1.009, abs=1e-3)
    assert noised(noise=0.0).wrap_probability == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"encoding": {"headroom": 5}}, r"headroom is 5, .* probability 0\.6 a round .* raise it"),
        ({"dimension": 2**23}, r"headroom is 6, .* raise it"),
        ({"encoding": {"rotate": False}}, "rotate: true and rounding: stochastic"),
        ({"encoding": {"rounding": "nearest"}}, "rotate: true and rounding: stochastic"),
        ({"dimension": 2**17, "summands": 10_000}, "coarse.*raise encoding.bits"),
        ({"summands": 2**27}, "fills 16 bits: raise encoding.bits"),
    ],
)
def test_a_codec_that_would_wrap_or_round_too_much_is_refused(changes, match) -> None:
    with pytest.raises(ConfigError, match=match):
        noised(**changes)
