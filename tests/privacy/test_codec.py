"""The codec: a norm that holds to the last unit, a mean that is right, and cohorts it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ConfigError
from codex_ray.privacy.codec import FEWEST_LEVELS, Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(b"codec".ljust(32, b"\0"))
FLAT = Encoding(bits=16, rounding="stochastic", rotate=True)
ENCODINGS = [
    Encoding(),
    Encoding(rotate=True),
    Encoding(rounding="stochastic"),
    FLAT,
    Encoding(bits=20, rounding="stochastic", rotate=True, headroom=4),
]


def sent(mechanism: CentralGaussian, codec: Codec, update: torch.Tensor, *, number: int = 0):
    return mechanism.encode(
        update,
        codec,
        rotation=codec.rotation(TREE.stream("rotation")),
        draws=TREE.stream("draws", number),
    )


def exact_norm_squared(codec: Codec, words: np.ndarray) -> Fraction:
    steps = codec.grid.integers(words[: codec.width]).tolist()
    return Fraction(codec.grid.step) ** 2 * sum(int(x) ** 2 for x in steps)


@settings(max_examples=60)
@given(
    st.sampled_from(ENCODINGS),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=70),
    st.floats(0.01, 10),
    st.integers(1, 60),
)
def test_a_summands_norm_is_at_most_the_clip_norm(encoding, values, clip_norm, summands) -> None:
    """In exact arithmetic for stochastic rounding, to float64's last digits for the other."""
    mechanism = CentralGaussian(clip_norm=clip_norm, noise_multiplier=1, encoding=encoding)
    codec = mechanism.codec(dimension=len(values), summands=summands)
    square = exact_norm_squared(codec, sent(mechanism, codec, torch.tensor(values)))
    slack = 0 if encoding.rounding == "stochastic" else Fraction(1, 10**11)
    assert square <= Fraction(clip_norm) ** 2 * (1 + slack)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_worst_update_for_the_grid_does_not_exceed_it_either(encoding) -> None:
    """Every coordinate half a step above a level, as long as it may be, and of either sign."""
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1, encoding=encoding)
    codec = mechanism.codec(dimension=256, summands=400)
    each = codec.allowed_norm / math.sqrt(256) / codec.grid.step
    rotated = torch.full((256,), (math.floor(each - 0.5) + 0.5) * codec.grid.step).double()
    rotated[::3] *= -1
    rotation = codec.rotation(TREE.stream("rotation"))
    update = rotated if rotation is None else rotation.inverse(rotated)
    assert 0.8 < float(update.norm()) <= codec.allowed_norm * (1 + 1e-12)
    norms = [
        exact_norm_squared(codec, sent(mechanism, codec, update, number=n)) for n in range(300)
    ]
    assert max(norms) <= 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mean_is_right_to_the_error_that_is_stated(encoding) -> None:
    """Against the mean of the clipped updates, for the largest cohort the codec was made for."""
    d, n = 1000, 300
    mechanism = CentralGaussian(clip_norm=2.0, noise_multiplier=1, encoding=encoding)
    codec = mechanism.codec(dimension=d, summands=n)
    updates = torch.from_numpy(TREE.stream("updates").normal(n * d)).view(n, d)
    updates *= torch.linspace(0.01, 0.2, n).double()[:, None]
    total = no_words(codec.length, bits=codec.bits)
    for number, update in enumerate(updates):
        total += sent(mechanism, codec, update, number=number)
    rotation = codec.rotation(TREE.stream("rotation"))
    mean = codec.decode(reduce_words(total, codec.bits), rotation=rotation) / n
    norms = updates.norm(dim=1, keepdim=True)
    expected = (updates * (codec.allowed_norm / norms).clamp(max=1)).mean(dim=0)
    rounding = codec.rounding_norm / (math.sqrt(n) if encoding.rounding == "stochastic" else 1)
    # The rounding error is at most that in the mean square; a fifth above it is 8 deviations away.
    assert float((mean - expected).norm()) <= 1.2 * rounding + codec.cut_norm
    assert codec.cut_norm + rounding < 0.05 * codec.clip_norm


def test_at_the_capacity_bound_a_sum_is_exact_and_one_summand_more_is_refused() -> None:
    """655 x 50 < 2^15 <= 656 x 50."""
    most = (2**15 - 1) // FEWEST_LEVELS
    setting = {"encoding": Encoding(bits=16), "dimension": 2, "bound": 3.0}
    codec = Codec(**setting, summands=most)
    words = codec.encode(torch.tensor([-3.0, 3.0]))
    total = no_words(2, bits=16)
    for _ in range(most):
        total += words
    assert codec.decode(total).tolist() == pytest.approx([-3.0 * most, 3.0 * most])
    with pytest.raises(ConfigError, match=r"49 levels to each of up to 656 .* raise encoding.bits"):
        Codec(**setting, summands=most + 1)


def test_at_the_bound_of_a_clipped_codec_too() -> None:
    """Identical updates of full norm, rotated onto one coordinate: the sum of the outermost level.

    Their rotation is undone by hand, so that everything meets in one coordinate, where it is cut.
    """
    finest = Codec(FLAT, 2**10, 300, 1.0, clip_norm=1.0)
    one = torch.zeros(finest.width, dtype=torch.float64)
    one[7] = finest.allowed_norm
    rotation = finest.rotation(TREE.stream("rotation"))
    assert rotation is not None
    words = finest.encode(rotation.inverse(one), rotation=rotation, draws=TREE.stream("d"))
    assert int(finest.grid.integers(words)[7]) == finest.levels
    total = no_words(finest.length, bits=16)
    for _ in range(300):
        total += words
    assert int(finest.grid.integers(total)[7]) == 300 * finest.levels < 2**15


@pytest.mark.parametrize(
    ("encoding", "summands", "dimension", "said"),
    [
        (Encoding(bits=16), 400, 1000, ["raise encoding.bits", "encoding.rotate: true"]),
        (Encoding(bits=16, rotate=True), 2000, 2**20, ["encoding.rounding: stochastic"]),
        (FLAT, 5000, 2**20, ["6 levels", "raise encoding.bits, lower the rate or size"]),
        (Encoding(), 10**6, 10**6, ["32-bit words leave 2147 levels", "lower the rate"]),
        (FLAT, 2**15, 4, ["0 levels", "raise encoding.bits"]),
    ],
)
def test_a_grid_that_is_too_coarse_is_refused_with_a_remedy(
    encoding, summands, dimension, said
) -> None:
    with pytest.raises(ConfigError) as refusal:
        Codec(encoding, dimension, summands, 1.0, clip_norm=1.0)
    assert str(refusal.value).startswith("federation.mechanism.encoding")
    assert all(words in str(refusal.value) for words in said)


def test_rounding_takes_the_share_that_is_stated_at_most() -> None:
    """A thousand clients and a million parameters fit 16 bits, for half a percent of the norm."""
    codec = Codec(FLAT, 10**6, 1000, 1.0, clip_norm=1.0)
    assert codec.levels == 32 and codec.length == 2**20
    assert codec.rounding_norm == pytest.approx(0.094, abs=1e-3)
    assert codec.allowed_norm == pytest.approx(0.9955, abs=1e-4)
    assert codec.cut_norm == pytest.approx(4e-5, rel=0.02)
    # Six deviations over 12 levels make rounding take a quarter, with 11 levels it would be more.
    most = (2**15 - 1) // 12
    assert Codec(FLAT, 10**6, most, 1.0, clip_norm=1.0).allowed_norm > 0.96
    with pytest.raises(ConfigError, match="11 levels"):
        Codec(FLAT, 10**6, most + 1, 1.0, clip_norm=1.0)


@pytest.mark.parametrize("kind", ["one coordinate", "Gaussian"])
def test_what_a_cut_takes_is_within_its_bound(kind) -> None:
    """At a headroom of 3, where cuts do happen to an update that is spread as by chance."""
    codec = Codec(Encoding(bits=32, rotate=True, headroom=3), 512, 10, 1.0, clip_norm=1.0)
    update = torch.eye(512, dtype=torch.float64)[3]
    if kind == "Gaussian":
        update = torch.from_numpy(TREE.stream("cut").normal(512))
    update *= codec.allowed_norm / float(update.norm())
    squares = []
    for number in range(400):
        rotation = codec.rotation(TREE.stream("cut", number))
        assert rotation is not None
        back = codec.decode(codec.encode(update, rotation=rotation), rotation=rotation)
        assert float(back.norm()) <= 1
        squares.append(float((back - update).square().sum()))
    found = math.sqrt(np.mean(squares))
    assert found <= codec.cut_norm + codec.rounding_norm
    assert found > 0.2 * codec.cut_norm or kind == "one coordinate"
    assert Codec(Encoding(rotate=True), 30, 10, 1.0, clip_norm=1.0).cut_norm == 0


def test_a_rotation_needs_a_norm_and_a_codec_its_means() -> None:
    with pytest.raises(ConfigError, match=r"encoding.rotate spreads .* set it to false"):
        Codec(Encoding(rotate=True), 10, 10, 1.0)
    codec = Codec(FLAT, 10, 10, 1.0, clip_norm=1.0)
    rotation = codec.rotation(TREE.stream("r"))
    with pytest.raises(ValueError, match="a rotation goes with"):
        codec.encode(torch.zeros(10), draws=TREE.stream("d"))
    with pytest.raises(ValueError, match="stochastic rounding draws"):
        codec.encode(torch.zeros(10), rotation=rotation)
    with pytest.raises(ValueError, match="a rotation goes with"):
        codec.decode(no_words(16, bits=16))
    plain = Codec(Encoding(), 10, 10, 1.0)
    assert plain.rotation(TREE.stream("r")) is None
    with pytest.raises(ValueError, match="and with no other"):
        plain.encode(torch.zeros(10), rotation=rotation)
