"""A chunk of updates is encoded as each of them alone, and on the device that it is on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from far_device import FAR, Crossing, FarDevice

from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.clip_and_round import clipped_all
from codex_ray.privacy.codec import CACHED, Codec
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanism import Means
from codex_ray.privacy.mechanisms import CentralGaussian, Metrics, NoMechanism, Weights
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise, rounded_sum
from codex_ray.privacy.passengers import Range, Told
from codex_ray.privacy.rotation import Rotation, walsh_hadamard
from codex_ray.randomness import SeedTree, Stream

TREE = SeedTree(b"encode all".ljust(32, b"\0"))
RIDING = {
    "weights": Weights(by="records", largest=300),
    "metrics": Metrics(train_loss=Range(low=0, high=5, resolution=0.01)),
}
ENCODINGS = [
    Encoding(),
    Encoding(bits=16, rounding="stochastic"),
    Encoding(bits=16, rounding="stochastic", rotate=True),
    Encoding(bits=21, rounding="stochastic", rotate=True),
]


def mechanisms():
    for encoding in ENCODINGS:
        yield CentralGaussian(clip_norm=0.7, noise_multiplier=1, encoding=encoding)
        yield AdaptiveGaussian(noise_multiplier=0.9, count_noise=2, encoding=encoding)
        if not encoding.rotate:
            yield NoMechanism(bound=4, encoding=encoding)
            yield NoMechanism(bound=4, encoding=encoding, **RIDING)
            yield LocalGaussian(clip_norm=0.7, noise_multiplier=0.6, encoding=encoding)
    yield CorrelatedGaussian(clip_norm=0.7, noise_multiplier=1)
    yield DiscreteGaussianNoise(clip_norm=0.7, noise_multiplier=0.9)
    yield SkellamNoise(clip_norm=0.7, noise_multiplier=0.9, encoding=ENCODINGS[-1])


def updates(n: int, d: int) -> torch.Tensor:
    """Short and long ones, and some that no honest client sends."""
    drawn = torch.from_numpy(TREE.stream("updates", n, d).normal(n * d)).view(n, d).float()
    drawn *= torch.linspace(0.001, 3, n)[:, None] / d**0.5
    drawn[0] = 0
    drawn[1, 0], drawn[2, -1], drawn[3, 0] = float("nan"), float("inf"), 3e38
    return drawn


def means(mechanism, rotation: Rotation | None) -> Means:
    return Means(
        rotation=rotation,
        draws=lambda client: TREE.stream("rounding", client),
        noise=lambda client: TREE.stream("noise", client),
        told=[Told(records=20 * client, train_loss=0.1 * client) for client in range(40)],
        state=mechanism.init(),
    )


def alone(mechanism, codec: Codec, update: torch.Tensor, client: int, given: Means) -> np.ndarray:
    return mechanism.encode(
        update,
        codec,
        rotation=given.rotation,
        draws=given.draws(client),
        told=given.told[client],
        noise=given.noise(client),
        state=given.state,
    )


every = pytest.mark.parametrize("mechanism", list(mechanisms()), ids=lambda m: f"{m.kind}")


@every
@pytest.mark.parametrize(("n", "d"), [(4, 1), (23, 33), (40, 1500)])
def test_each_summand_is_what_its_client_would_have_sent_alone(mechanism, n, d) -> None:
    """To the bit, and over several passes where a chunk is larger than the cache."""
    codec = mechanism.codec(dimension=d, summands=50)
    given = means(mechanism, codec.rotation(TREE.stream("rotation")))
    chunk = updates(n, d)
    kept = chunk.clone()
    found = mechanism.encode_all(chunk, codec, given)
    assert found.shape == (n, codec.length)
    assert torch.equal(chunk.nan_to_num(nan=7.0), kept.nan_to_num(nan=7.0)), "it is the caller's"
    for client, update in enumerate(chunk):
        assert np.array_equal(found[client], alone(mechanism, codec, update, client, given))
    if (n, d) == (40, 1500):
        assert codec.rows(chunk.device) < n, "this was to take several passes"


@every
def test_on_a_device_nothing_but_words_and_flags_leaves_it(mechanism) -> None:
    n, d = 23, 257
    codec = mechanism.codec(dimension=d, summands=50)
    given = means(mechanism, codec.rotation(TREE.stream("rotation")))
    here = mechanism.encode_all(updates(n, d), codec, given)
    with FarDevice() as device:
        chunk = updates(n, d).to(FAR)
        device.uploads.clear()
        there = mechanism.encode_all(chunk, codec, given)
    assert np.array_equal(here, there)
    word = torch.int16 if codec.bits == 16 else torch.int32
    words = [one for one in device.downloads if one.dtype is not torch.bool]
    assert words == [Crossing((n, codec.width), word)], "once, as words"
    flags = [one.shape for one in device.downloads if one.dtype is torch.bool]
    assert all(len(shape) == 1 and shape[0] <= n for shape in flags) and len(flags) < 20
    if codec.encoding.rounding == "nearest" and mechanism.kind != "adaptive_gaussian":
        assert not flags, "nothing is waited for"


def test_of_records_that_are_rounded_one_by_one_only_the_sum_leaves_the_device() -> None:
    mechanism = SkellamNoise(clip_norm=0.7, noise_multiplier=4)
    codec = mechanism.codec(dimension=100, summands=60, expected=6, bringers=6)
    rotation = codec.rotation(TREE.stream("rotation"))
    steps = clipped_all(updates(9, 100), codec.allowed_norm)
    here = rounded_sum(iter([steps[:4], steps[4:]]), codec, rotation=rotation, draws=draws())
    with FarDevice() as device:
        far = steps.to(FAR)
        there = rounded_sum(iter([far[:4], far[4:]]), codec, rotation=rotation, draws=draws())
    assert np.array_equal(here, there)
    words = [one for one in device.downloads if one.dtype is not torch.bool]
    assert words == [Crossing((codec.width,), torch.int16)]


def draws() -> Stream:
    return TREE.stream("one after another")


def test_the_device_of_these_tests_refuses_a_mixture_and_sees_a_detour() -> None:
    with FarDevice() as device:
        far = torch.ones(3).to(FAR)
        with pytest.raises(AssertionError, match="two devices"):
            far + torch.ones(3)
        assert far.device == FAR and device.downloads == []
        assert float(far.sum()) == 3.0 and (far * 2).cpu().tolist() == [2.0, 2.0, 2.0]
    assert device.downloads == [Crossing((), torch.float32), Crossing((3,), torch.float32)]


def test_a_sum_of_words_does_not_wrap_where_a_residue_does() -> None:
    """rounded_sum adds in float64, and may be beyond 2^31 before it is reduced."""
    codec = Codec(Encoding(), 3, 1, 1.0)
    assert codec.grid.levels == 2**31 - 1
    steps = torch.tensor([[1.0, -1.0, 0.25]]).double().repeat(5, 1)
    found = rounded_sum(iter([steps]), codec, rotation=None, draws=draws())
    one = codec.encode(steps[0]).astype(np.uint64)
    assert found.tolist() == ((5 * one) % 2**32).tolist()


def test_clipping_many_is_clipping_each() -> None:
    """And one that is not finite is zero in all its coordinates, or noise would show which."""
    chunk = updates(12, 40).double()
    chunk[4, 3] = 1e200  # is a number, but its square is not
    chunk[5:7] /= 100  # short ones stay what they are
    kept = chunk.clone()
    found = clipped_all(chunk, 0.5)
    assert torch.equal(chunk.nan_to_num(nan=7.0), kept.nan_to_num(nan=7.0)), "it is the caller's"
    for row, update in zip(found, chunk, strict=True):
        norm = float(update.norm())
        if math.isfinite(norm):
            assert torch.equal(row, update * min(1.0, 0.5 / norm if norm else 1.0))
            assert float(row.norm()) <= 0.5 * (1 + 1e-15)
        else:
            assert torch.equal(row, torch.zeros(40).double())
    assert found.norm(dim=1).count_nonzero() == 12 - 4  # one is zero, and three are not finite


def test_no_updates_are_no_summands() -> None:
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1)
    codec = mechanism.codec(dimension=5, summands=9)
    assert mechanism.encode_all(torch.zeros(0, 5), codec, Means()).shape == (0, 5)


def test_what_is_missing_is_asked_for() -> None:
    chunk = updates(5, 8)
    for mechanism, word in (
        (NoMechanism(bound=4, **RIDING), "asks for"),
        (LocalGaussian(clip_norm=1, noise_multiplier=1), "brings noise"),
        (SkellamNoise(clip_norm=1, noise_multiplier=1), "brings noise"),
        (CentralGaussian(clip_norm=1, noise_multiplier=1, encoding=ENCODINGS[1]), "draws"),
        (CentralGaussian(clip_norm=1, noise_multiplier=1, encoding=ENCODINGS[2]), "rotation"),
    ):
        codec = mechanism.codec(dimension=8, summands=40)
        with pytest.raises(ValueError, match=word):
            mechanism.encode_all(chunk, codec, Means())


def test_a_pass_is_as_long_as_the_cache_or_the_device_has_room_for() -> None:
    codec = Codec(Encoding(), 1000, 9, 1.0)
    assert codec.rows(torch.device("cpu")) * 1000 <= CACHED
    assert Codec(Encoding(), 10 * CACHED, 9, 1.0).rows(torch.device("cpu")) == 1
    assert codec.rows(FAR) > 10_000


@pytest.mark.gpu
@every
def test_a_gpu_gives_the_same_words_but_for_the_last_bits_of_its_sums(mechanism) -> None:
    """A coordinate that differs is one that rounding had on the edge: then by one step."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    n, d = 23, 5000
    codec = mechanism.codec(dimension=d, summands=50)
    given = means(mechanism, codec.rotation(TREE.stream("rotation")))
    here = mechanism.encode_all(updates(n, d), codec, given)
    there = mechanism.encode_all(updates(n, d).cuda(), codec, given)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one[codec.width :], other[codec.width :])
        steps = codec.grid.integers(other[: codec.width]) - codec.grid.integers(one[: codec.width])
        edge = codec.grid.levels * 1e-12 + 1e-4  # the share of coordinates so near to an edge
        assert float(steps.abs().max()) <= 1 and float(steps.abs().mean()) <= edge


@pytest.mark.gpu
def test_a_gpu_rotates_as_the_cpu_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    vectors = updates(7, 60_000)[4:].double()
    rotation = Rotation.drawn(TREE.stream("rotation"), dimension=60_000)
    here, there = rotation.forward(vectors), rotation.forward(vectors.cuda()).cpu()
    assert float((here - there).abs().max()) <= 1e-13 * float(vectors.abs().max()) * 256
    back = walsh_hadamard(there.cuda()).cpu() * rotation.signs
    assert torch.allclose(back[:, :60_000], vectors, atol=1e-12)
