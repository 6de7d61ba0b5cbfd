"""Updates stay on the device from training to encoding: there and back there is one crossing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from far_device import FAR, Crossing, FarDevice
from lane_cases import EPOCHS, PLAIN, PRIVATE, Residual, cnn, logistic, mlp, planned, reference

from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import Means
from codex_ray.privacy.mechanisms import CentralGaussian
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
