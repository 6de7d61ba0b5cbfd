"""Updates stay on the device from training to encoding: there and back there is one crossing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from far_device import FAR, Crossing, FarDevice
from lane_cases import EPOCHS, PLAIN, PRIVATE, Residual, cnn, logistic, mlp, planned, reference

from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Means
from codex_ray.privacy.mechanisms import CentralGaussian, Metrics, NoMechanism, Weights
from codex_ray.privacy.passengers import Range, Told
from codex_ray.randomness import SeedTree

TREE = SeedTree(b"devices".ljust(32, b"\0"))
SOME = range(5)
FLAT = Encoding(bits=16, rounding="stochastic", rotate=True)
ENCODINGS = {"flat": FLAT, "nearest": Encoding()}


def on(device: str, training: VectorisedTraining) -> VectorisedTraining:
    plan = training.plan.model_copy(update={"device": device})
    return VectorisedTraining(training.reference, plan)


def means(rotation=None) -> Means:
    return Means(rotation=rotation, draws=lambda client: TREE.stream("rounding", client))


@pytest.mark.parametrize("make", [logistic, mlp, cnn])
@pytest.mark.parametrize("trainer", [PLAIN, EPOCHS, PRIVATE], ids=["plain", "epochs", "private"])
def test_training_reads_nothing_back_but_how_many_gradients_it_clipped(make, trainer) -> None:
    training = planned(reference(make, trainer))
    params = training.reference.model.get()
    here = training.train(params, SOME, 3)
    with FarDevice() as device:
        found = on("meta", training).train(params, SOME, 3)
        assert found.device == FAR
        counts = [Crossing((4,), torch.int64)] * len(device.downloads)
        assert device.downloads == counts, "one number a lane, for debugging"
        assert trainer is PRIVATE or not counts
        there = found.cpu()
    assert float((here - there).abs().max()) < 1e-6 < float(here.abs().max())


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=list(ENCODINGS))
def test_from_training_to_words_there_is_one_transfer(encoding) -> None:
    training = planned(reference(cnn, PLAIN))
    params = training.reference.model.get()
    mechanism = CentralGaussian(clip_norm=0.1, noise_multiplier=1, encoding=encoding)
    codec = mechanism.codec(dimension=training.dimension, summands=20)
    given = means(codec.rotation(TREE.stream("rotation")))
    here = mechanism.encode_all(training.train(params, SOME, 3), codec, given)
    with FarDevice() as device:
        updates = on("meta", training).train(params, SOME, 3)
        there = mechanism.encode_all(updates, codec, given)
    moved = [one for one in device.downloads if one.dtype is not torch.bool]
    word = torch.int16 if codec.bits == 16 else torch.int32
    assert moved == [Crossing((len(SOME), codec.width), word)]
    signed = [codec.grid.integers(words) for words in (here, there)]
    step = 1e-6 / codec.grid.step  # what the updates themselves may differ by
    assert float((signed[0] - signed[1]).abs().max()) <= 1 + step
    assert np.count_nonzero(here) > here.size / 2


ODD = FLAT.model_copy(update={"bits": 21})
RIDING = NoMechanism(
    bound=0.1,
    encoding=Encoding(bits=16, rounding="stochastic"),
    weights=Weights(by="records", largest=300),
    metrics=Metrics(train_loss=Range(low=0, high=5, resolution=0.01)),
)
ADDING = {
    "none": NoMechanism(bound=0.1),
    "riding": RIDING,
    "riding in odd words": RIDING.model_copy(
        update={"encoding": Encoding(bits=21, rounding="stochastic")}
    ),
    "flat": CentralGaussian(clip_norm=0.1, noise_multiplier=1, encoding=FLAT),
    "odd": CentralGaussian(clip_norm=0.1, noise_multiplier=1, encoding=ODD),
    "nearest": CentralGaussian(clip_norm=0.1, noise_multiplier=1),
    "adaptive": AdaptiveGaussian(noise_multiplier=0.9, count_noise=2, encoding=FLAT),
}


@pytest.mark.parametrize("rows", [1, 2, 5], ids=lambda rows: f"passes of {rows}")
@pytest.mark.parametrize("mechanism", ADDING.values(), ids=list(ADDING))
def test_a_sum_leaves_the_device_as_one_vector_and_is_that_of_the_rows(
    mechanism, rows, monkeypatch
) -> None:
    """One for each pass, to the bit, with what rides behind the updates."""
    monkeypatch.setattr(Codec, "rows", lambda codec, device: rows)
    training = planned(reference(mlp, PLAIN))
    params = training.reference.model.get()
    codec = mechanism.codec(dimension=training.dimension, summands=20)
    told = [Told(records=70 + client, train_loss=0.7 * client) for client in SOME]
    given = replace(means(codec.rotation(TREE.stream("rotation"))), told=told)
    with FarDevice() as device:
        updates = on("meta", training).train(params, SOME, 3)
        every = mechanism.encode_all(updates, codec, given)
        device.downloads.clear()
        found = mechanism.encode_sum(updates, codec, given)
    moved = [one for one in device.downloads if one.dtype is not torch.bool]
    word = torch.int16 if codec.bits == 16 else torch.int32
    assert moved == -(-len(SOME) // rows) * [Crossing((codec.width,), word)]
    total = every.sum(axis=0, dtype=np.uint64) % 2**codec.bits
    assert found.dtype == every.dtype and np.array_equal(found, total)
    assert np.count_nonzero(found[: codec.width]) > codec.width / 4
    if codec.aboard:
        want = {"weight": sum(70 + client for client in SOME), "train_loss_count": 5}
        assert mechanism.kind != "none" or codec.side(found).items() >= want.items()


def test_a_sum_beyond_the_modulus_wraps_as_words_do() -> None:
    """None of a cohort's does; but who asks for the sum of more must not get another one."""
    mechanism = NoMechanism(bound=1.0, encoding=Encoding(bits=32))
    codec = mechanism.codec(dimension=3, summands=1)
    updates = torch.tensor([[1.0, -1.0, 0.3]]).repeat(7, 1)
    one = mechanism.encode_all(updates[:1], codec, Means())[0].astype(np.uint64)
    assert mechanism.encode_sum(updates, codec, Means()).tolist() == (7 * one % 2**32).tolist()
    assert mechanism.encode_sum(updates[:0], codec, Means()).tolist() == [0, 0, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("mechanism", ADDING.values(), ids=list(ADDING))
def test_a_gpu_adds_as_the_cpu_does(mechanism) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    n, d = 1000, 3000
    codec = mechanism.codec(dimension=d, summands=n)
    told = [Told(records=client % 300, train_loss=0.004 * client) for client in range(n)]
    given = replace(means(codec.rotation(TREE.stream("rotation"))), told=told)
    updates = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).mul_(0.01).cuda()
    every = mechanism.encode_all(updates, codec, given)
    total = every.sum(axis=0, dtype=np.uint64) % 2**codec.bits
    assert np.array_equal(mechanism.encode_sum(updates, codec, given), total)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [logistic, mlp, cnn, Residual])
@pytest.mark.parametrize("trainer", [PLAIN, EPOCHS, PRIVATE], ids=["plain", "epochs", "private"])
def test_a_gpu_trains_as_the_cpu_does(make, trainer) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    training = planned(reference(make, trainer))
    params = training.reference.model.get()
    here = training.train(params, SOME, 3)
    there = on("cuda", training).train(params, SOME, 3)
    assert there.device.type == "cuda"
    assert float((here - there.cpu()).abs().max()) < 1e-4 < float(here.abs().max())
