"""The rotation: orthogonal, its own way back, and as even as Hoeffding says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from codex_ray.privacy.rotation import Rotation, padded, walsh_hadamard
from codex_ray.randomness import SeedTree

TREE = SeedTree(b"rotation".ljust(32, b"\0"))


def drawn(dimension: int, *, number: int = 0) -> Rotation:
    return Rotation.drawn(TREE.stream("rotation", number), dimension=dimension)


def vector(dimension: int) -> torch.Tensor:
    return torch.from_numpy(TREE.stream("vector").normal(dimension))


@pytest.mark.parametrize("bits", range(12))
def test_it_is_the_walsh_hadamard_transform(bits) -> None:
    """Below, at and above one block: against the matrix written out."""
    x = vector(2**bits)
    expected = hadamard(2**bits).astype(np.float64) @ x.numpy()
    np.testing.assert_allclose(walsh_hadamard(x).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dimension", [1, 2, 3, 31, 32, 33, 1000, 2**15 + 1])
def test_it_keeps_norms_and_angles_and_inverts(dimension) -> None:
    rotation, x = drawn(dimension), vector(dimension)
    y = torch.roll(x, 1) + 1
    u, v = rotation.forward(x), rotation.forward(y)
    assert u.shape == (padded(dimension),)
    assert float(u @ v) == pytest.approx(float(x @ y), rel=1e-12, abs=1e-9)
    assert float(u.norm()) == pytest.approx(float(x.norm()), rel=1e-13)
    back = rotation.inverse(u)
    assert float((back[:dimension] - x).abs().max()) <= 1e-14 * math.sqrt(len(u))
    assert not back[dimension:].abs().gt(1e-12).any()


def test_the_matrix_is_orthogonal() -> None:
    rotation = drawn(64)
    columns = torch.stack([rotation.forward(row) for row in torch.eye(64, dtype=torch.float64)])
    torch.testing.assert_close(columns @ columns.T, torch.eye(64, dtype=torch.float64))


def test_rounds_have_rotations_of_their_own_and_the_stream_decides_which() -> None:
    assert torch.equal(drawn(100).signs, drawn(100).signs)
    assert not torch.equal(drawn(100).signs, drawn(100, number=1).signs)
    signs = torch.stack([drawn(256, number=n).signs.sign() for n in range(400)])
    assert float(signs.mean(dim=0).abs().max()) < 5 / math.sqrt(400)


@pytest.mark.parametrize("kind", ["one coordinate", "two coordinates", "all alike", "Gaussian"])
def test_a_coordinate_is_large_no_more_often_than_hoeffding_allows(kind) -> None:
    d = 128
    x = {
        "one coordinate": torch.eye(d, dtype=torch.float64)[5],
        "two coordinates": torch.eye(d, dtype=torch.float64)[:2].sum(0),
        "all alike": torch.ones(d, dtype=torch.float64),
        "Gaussian": vector(d),
    }[kind]
    x = x / x.norm()
    spread = torch.stack([drawn(d, number=n).forward(x) for n in range(300)]) * math.sqrt(d)
    assert float(spread.square().mean()) == pytest.approx(1, rel=1e-9)
    for t in (2.0, 2.5, 3.0):
        assert float((spread.abs() > t).double().mean()) <= 2 * math.exp(-(t**2) / 2)


def test_padding_is_to_the_next_power_of_two() -> None:
    assert [padded(d) for d in (1, 2, 3, 4, 5, 2**20, 2**20 + 1)] == [1, 2, 4, 4, 8, 2**20, 2**21]
