"""Features of one image by a fixed rule: what they see, what they overlook, what they refuse."""

import numpy as np
import pytest

from codex_ray.data.image_features import Gradients, Pixels
from codex_ray.errors import ConfigError


def ramp(turn, *, side=28):
    """An image that grows brighter in the direction `turn` of the circle (0 right, 1/4 down)."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    along = columns * np.cos(2 * np.pi * turn) + rows * np.sin(2 * np.pi * turn)
    return np.rint(127 + 6 * along).clip(0, 255).astype(np.uint8)[None]


def noise(count=3, *, side=28):
    return np.random.default_rng(0).integers(0, 256, (count, side, side)).astype(np.uint8)


@pytest.mark.parametrize("features", [Pixels(), Pixels(block=2), Gradients()])
def test_a_record_has_mean_0_and_variance_1_and_depends_on_no_other(features):
    images = noise(300)
    found = features.of(images)
    flat = found.reshape(300, -1)
    assert found.dtype == np.float32
    assert np.abs(flat.mean(axis=1)).max() < 1e-3
    assert np.abs(flat.std(axis=1) - 1).max() < 1e-3
    assert np.array_equal(found[257:], features.of(images[257:]))
    assert np.array_equal(found, np.rint(found * 1024) / 1024)  # no last bits of a libm


def test_shapes():
    assert Pixels().of(noise()).shape == (3, 1, 28, 28)
    assert Pixels(block=4).of(noise()).shape == (3, 1, 7, 7)
    assert Gradients().of(noise()).shape == (3, 8, 5, 5)
    assert Gradients(directions=4, cell=7, stride=7).of(noise(0)).shape == (0, 4, 4, 4)


def test_blocks_are_means():
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, :2, :2] = [[10, 30], [50, 70]]
    corner = Pixels(block=2).of(image)[0, 0]
    # Three blocks of 0 and one of 40: deviations -10 and 30 from the mean 10, over sqrt(300).
    assert corner == pytest.approx(np.array([[3, -1], [-1, -1]]) / np.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("octant", range(8))
def test_an_edge_is_found_in_its_own_direction_and_in_no_other(octant):
    found = Gradients().of(ramp(octant / 8))[0]
    middle = found[:, 2, 2] - found.min()  # at least: a direction that does not occur
    assert int(middle.argmax()) == octant
    assert np.delete(middle, octant).max() < middle[octant] / 2


def test_an_edge_between_two_directions_is_shared():
    middle = Gradients().of(ramp(3 / 16))[0, :, 2, 2]
    assert set(np.argsort(middle)[-2:]) == {1, 2}
    assert middle[1] == pytest.approx(middle[2], abs=0.15)


def test_a_feature_is_the_root_of_the_mean_gradient_of_its_cell():
    columns = np.arange(28)
    slopes = np.where(columns < 14, 2 * columns, 26 + 8 * (columns - 13))  # 2, then 8 a pixel
    found = Gradients().of(np.tile(slopes, (28, 1)).astype(np.uint8)[None])[0]
    rightwards = found[0, 2] - found.min()
    assert rightwards[3] == pytest.approx(2 * rightwards[1], rel=0.01)


def test_brightness_and_contrast_do_not_count():
    image = noise(1) // 4
    for features in (Pixels(), Gradients()):
        assert features.of(3 * image) == pytest.approx(features.of(image), abs=1e-3)
    assert Pixels().of(image + np.uint8(99)) == pytest.approx(Pixels().of(image), abs=1e-3)


def test_a_flat_image_has_no_features():
    flat = np.full((1, 28, 28), 0, np.uint8)
    assert not Pixels().of(flat).any() and not Gradients().of(flat).any()
    assert not Pixels().of(flat + np.uint8(200)).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"data\.features\.block is 3, which does not divide"):
        Pixels(block=3).of(noise())
    for wrong in (Gradients(cell=8, stride=6), Gradients(cell=29)):
        with pytest.raises(ConfigError, match=r"data\.features: cells of .* do not cover images"):
            wrong.of(noise())
