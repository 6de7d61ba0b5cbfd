"""A step's noise in one pass is the noise of the streams, to the last bits of its radius."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from codex_ray.learning import lane_noise
from codex_ray.learning.lane_noise import StepNoise
from codex_ray.randomness import SeedTree, Stream

TREE = SeedTree(bytes(range(32)))


LAST_BITS = 5e-7
"""Of the radius, by which a float32 of it times a cosine may be off."""


def one_by_one(sizes: list[int], stream: Stream, scale: float) -> np.ndarray:
    return np.concatenate([stream.normal(size) for size in sizes]) * scale


def errors(found: torch.Tensor, expected: np.ndarray) -> np.ndarray:
    """How far each normal is off, in units of the radius that it shares with its pair."""
    half = len(expected) // 2
    assert len(expected) == 2 * half
    radius = np.hypot(expected[:half], expected[half:])
    return np.abs(found.numpy() - expected) / np.tile(radius, 2)


@pytest.mark.parametrize("sizes", [[1], [2], [3, 1, 5], [144, 16, 4608, 31], [70_001, 7]])
def test_it_is_the_noise_of_the_reference(sizes) -> None:
    noise, out = StepNoise(sizes), torch.empty(sum(sizes))
    ours, theirs = TREE.stream("noise"), TREE.stream("noise")
    for _ in range(3):
        noise.draw(ours, 1.7, out=out)
        expected = one_by_one(sizes, theirs, 1.7)
        np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1.7 * 5 * LAST_BITS)


def test_no_draw_loses_more_than_the_last_bits_of_its_radius() -> None:
    """The shortest radii, too, whose logarithm a float32 of the uniform does not know."""
    size = 1 << 20
    out = torch.empty(size)
    StepNoise([size]).draw(TREE.stream("many"), 1.0, out=out)
    expected = one_by_one([size], TREE.stream("many"), 1.0)
    assert np.hypot(expected[: size // 2], expected[size // 2 :]).min() < 3e-3
    assert errors(out, expected).max() < LAST_BITS


class Words(Stream):
    """A stream of given words."""

    def __init__(self, words: list[int]) -> None:
        self._words = np.array(words, dtype="<u8").tobytes()

    def bytes(self, count: int) -> bytes:
        given, self._words = self._words[:count], self._words[count:]
        return given

    def fill(self, words: np.ndarray) -> None:
        words[:] = np.frombuffer(self.bytes(words.nbytes), dtype="<u8")


@pytest.mark.parametrize("word", [0, 1 << 12, (1 << 64) - 1, 1 << 63, (1 << 63) - 1, 1 << 62])
def test_the_ends_of_the_uniforms(word) -> None:
    """The longest tail, 8.6 standard deviations, and angles next to every axis."""
    for words in ([word, 1 << 60], [1 << 60, word]):
        out = torch.empty(2)
        StepNoise([2]).draw(Words(words), 1.0, out=out)
        expected = one_by_one([2], Words(words), 1.0)
        assert torch.isfinite(out).all() and np.hypot(*out.numpy()) > 1e-8
        assert errors(out, expected).max() < LAST_BITS


def test_the_tail_ends_where_the_streams_does() -> None:
    out = torch.empty(2)
    StepNoise([2]).draw(Words([0, 0]), 1.0, out=out)
    assert 8.5 < float(out.abs().max()) < 8.7


def test_the_block_is_nothing_to_the_draws(monkeypatch) -> None:
    sizes, found = [101, 999], []
    for block in (64, 1 << 15):
        monkeypatch.setattr(lane_noise, "BLOCK", block)
        out = torch.empty(sum(sizes))
        StepNoise(sizes).draw(TREE.stream("block"), 1.0, out=out)
        found.append(out.numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=5 * LAST_BITS)


def test_either_library_takes_the_same_logarithms(monkeypatch) -> None:
    """Nodes whose processors differ are told of; their noise does not differ for this."""
    found = []
    for wide in (False, True):
        monkeypatch.setattr(lane_noise, "WIDE", wide)
        out = torch.empty(1 << 20)
        StepNoise([1 << 20]).draw(TREE.stream("library"), 1.0, out=out)
        found.append(out.numpy())
    np.testing.assert_array_equal(*found)


def test_it_is_normal() -> None:
    out = torch.empty(200_000)
    StepNoise([200_000]).draw(TREE.stream("normal"), 2.0, out=out)
    assert stats.kstest(out.numpy() / 2, "norm").pvalue > 1e-3
