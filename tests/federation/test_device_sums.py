"""Where nothing is hidden a host's clients are added up on the device: one vector leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from far_device import FAR, Crossing, FarDevice

from codex_ray.errors import ProtocolError
from codex_ray.federation import client as clients
from codex_ray.federation.client import Host
from codex_ray.federation.messages import DebugReport, DebugRequest, Trained, TrainTask
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian, Metrics, NoMechanism, Weights
from codex_ray.privacy.noise_inside import SkellamNoise
from codex_ray.privacy.passengers import Range, Told
from codex_ray.privacy.quantisation import added
from codex_ray.randomness import Randomness
from codex_ray.secagg.messages import FoldedInput, PlainSummand, SummandRequest, SurvivorCheck
from codex_ray.secagg.plain import PlainClient
from codex_ray.secagg.protocols import Clear, Ideal, OneShot, SecAgg, SecAggPlus
from codex_ray.wire import read_frame

RANDOM = Randomness.of(11)
DIMENSION = 100
COHORT = tuple(range(3, 14))
PORTION = 4
"""Clients of a portion: so the cohort takes three, of which the last is smaller."""
FLAT = Encoding(bits=16, rounding="stochastic", rotate=True)
MECHANISMS = {
    "none": NoMechanism(
        bound=4,
        weights=Weights(by="records", largest=300),
        metrics=Metrics(train_loss=Range(low=0, high=5, resolution=0.01)),
    ),
    "flat": CentralGaussian(clip_norm=0.7, noise_multiplier=1, encoding=FLAT),
    "nearest": CentralGaussian(clip_norm=0.7, noise_multiplier=1),
    "odd": CentralGaussian(
        clip_norm=0.7, noise_multiplier=1, encoding=FLAT.model_copy(update={"bits": 21})
    ),
    "adaptive": AdaptiveGaussian(noise_multiplier=0.9, count_noise=2, encoding=FLAT),
    "local": LocalGaussian(clip_norm=0.7, noise_multiplier=0.6),
}
every = pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=list(MECHANISMS))


class Drawn:
    """Trains nothing: a client's update is drawn, and put on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def train(self, params: torch.Tensor, clients: Sequence[int], round: int) -> torch.Tensor:
        rows = [RANDOM.public.stream("update", one).normal(DIMENSION) for one in clients]
        return torch.from_numpy(np.stack(rows)).float().mul_(0.1).to(self.device)

    def tell(self, params: torch.Tensor, clients: Sequence[int], asked: object) -> list[Told]:
        return [Told(records=20 * one, train_loss=0.1 * one) for one in clients]

    def clipping(self, client: int) -> tuple[int, int, int]:
        return (0, 0, 0)


@pytest.fixture(autouse=True)
def portions(monkeypatch) -> None:
    monkeypatch.setattr(clients, "PORTION", 0)


def carrying(device, mechanism, protocol=None, **changes) -> Host:
    return Host(
        trainer=Drawn(device),  # type: ignore[arg-type]  # as much as a host needs here
        mechanism=mechanism,
        protocol=protocol or Ideal(),
        codec=mechanism.codec(dimension=DIMENSION, summands=30),
        randomness=RANDOM,
        together=PORTION,
        **changes,
    )


def task(mechanism, opening: bytes | None = None, attempt: int = 0) -> bytes:
    opening = SummandRequest().to_frame() if opening is None else opening
    state = np.array(mechanism.init(), dtype=np.float32)
    return TrainTask(b"r" * 16, 2, attempt, np.zeros(3, np.float32), state, opening).to_frame()


def there(mechanism, frames: Mapping[int, bytes], protocol=None, **changes):
    """A host on a device, its replies, and the vectors of words that left the device."""
    with FarDevice() as device:
        host = carrying(FAR, mechanism, protocol, **changes)
        replies = host.handle(frames)
    words = [it for it in device.downloads if it.dtype in (torch.int16, torch.int32)]
    return host, replies, [(it.shape, it.dtype) for it in words]


def words_of(mechanism, *rows: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Words of that many clients at a time; 0 stands for the sum of some."""
    codec = mechanism.codec(dimension=DIMENSION, summands=30)
    kind = torch.int16 if codec.bits == 16 else torch.int32
    return [((n, codec.width) if n else (codec.width,), kind) for n in rows]


@every
def test_of_each_portion_one_vector_leaves_the_device_and_replies_are_the_same(mechanism) -> None:
    """The sum, who is noted to be in it, and the bytes that each of them counts for."""
    frames = dict.fromkeys(COHORT, task(mechanism))
    here = carrying(torch.device("cpu"), mechanism).handle(frames)
    _, replies, moved = there(mechanism, frames)
    assert moved == words_of(mechanism, 0, 0, 0)
    assert replies == here
    kinds = [type(read_frame(replies[one])) for one in COHORT]
    assert kinds == [PlainSummand] + 10 * [FoldedInput]
    alone = carrying(torch.device("cpu"), mechanism, fold=False).handle(frames)
    rows = [read_frame(alone[one]).words for one in COHORT]  # type: ignore[attr-defined]
    total = np.sum(rows, axis=0, dtype=np.uint64) % 2**mechanism.encoding.bits
    assert np.array_equal(read_frame(replies[COHORT[0]]).words, total)  # type: ignore[attr-defined]
    assert np.count_nonzero(total) > DIMENSION / 2


def test_clients_answer_once_and_are_there_afterwards() -> None:
    mechanism = MECHANISMS["flat"]
    frames = dict.fromkeys(COHORT, task(mechanism))
    host, _, _ = there(mechanism, frames)
    assert host.handle(frames) == {}
    assert host.handle(dict.fromkeys(COHORT, SummandRequest().to_frame())) == {}
    check = SurvivorCheck(COHORT).to_frame()
    assert host.handle(dict.fromkeys(COHORT, check)).keys() == set(COHORT)


@every
def test_who_falls_silent_before_its_summand_is_in_no_sum(mechanism) -> None:
    """It hears of no request, and its own words stay what they are, for as long as it is there."""
    silent = (3, 5, 12)
    cut, whole = task(mechanism, b""), task(mechanism)
    frames = {one: cut if one in silent else whole for one in COHORT}
    near = carrying(torch.device("cpu"), mechanism)
    here = near.handle(frames)
    with FarDevice() as device:
        host = carrying(FAR, mechanism)
        replies = host.handle(frames)
        words = [it for it in device.downloads if it.dtype in (torch.int16, torch.int32)]
    assert replies == here
    assert [type(read_frame(replies[one])) for one in silent] == 3 * [Trained]
    assert sorted(words, key=str) == sorted(
        [Crossing(*it) for it in words_of(mechanism, 3, 0, 0)], key=str
    )
    late = dict.fromkeys(silent, SummandRequest().to_frame())
    assert host.handle(late) == near.handle(late) != {}


class Refusing(PlainClient):
    """A client that gives nothing."""

    def answer(self, message):
        raise ProtocolError("not today")


@pytest.mark.parametrize("refuses", COHORT[PORTION : PORTION + 2], ids=["the first", "another"])
def test_a_client_that_refuses_is_in_no_sum_and_takes_nobody_out_of_one(
    refuses, monkeypatch
) -> None:
    """No client of these sessions does. If one did, its portion would be silent as a whole."""
    mechanism = MECHANISMS["flat"]
    whole = Ideal.client

    def client(self, me, context, summand, **others):
        if me == refuses:
            return Refusing(me, context, summand)
        return whole(self, me, context, summand, **others)

    frames = dict.fromkeys(COHORT, task(mechanism))
    monkeypatch.setattr(Ideal, "client", client)
    _, replies, _ = there(mechanism, frames)
    out = COHORT[PORTION : 2 * PORTION]
    silent = [one for one in COHORT if isinstance(read_frame(replies[one]), Trained)]
    assert silent == list(out)
    others = {one: frames[one] for one in COHORT if one not in out}
    want = carrying(torch.device("cpu"), mechanism).handle(others)
    assert {one: replies[one] for one in others} == want


@pytest.mark.parametrize("protocol", [SecAgg(), SecAggPlus(), OneShot(), Clear()], ids=repr)
@pytest.mark.parametrize("opening", [b"", SummandRequest().to_frame()], ids=["", "opened"])
def test_where_each_is_masked_or_seen_alone_each_leaves_as_it_did(
    protocol, opening, monkeypatch
) -> None:
    """Whatever is asked along with the training, were it the protocol that asks it."""
    mechanism = MECHANISMS["flat"]
    if opening:
        monkeypatch.setattr(type(protocol), "opening", SummandRequest())
    frames = dict.fromkeys(COHORT, task(mechanism, opening))
    host, replies, moved = there(mechanism, frames, protocol)
    assert moved == words_of(mechanism, 4, 4, 3)
    near = carrying(torch.device("cpu"), mechanism, protocol)
    here = near.handle(frames)
    if isinstance(protocol, Clear):
        assert replies == here
        return
    assert all(isinstance(read_frame(frame), Trained) for frame in replies.values())
    for one in COHORT:
        kept, other = (it._sessions._seats[one].summand for it in (host, near))
        assert isinstance(kept, np.ndarray) and kept.any()
        assert np.array_equal(kept, other)  # type: ignore[arg-type]  # an array, too


@pytest.mark.parametrize(
    "asked", [b"", SurvivorCheck(COHORT).to_frame(), DebugRequest().to_frame()], ids=len
)
def test_without_the_request_that_nobody_refuses_each_leaves_as_it_did(asked) -> None:
    mechanism = MECHANISMS["flat"]
    frames = dict.fromkeys(COHORT, task(mechanism, asked))
    _, replies, moved = there(mechanism, frames)
    assert moved == words_of(mechanism, 4, 4, 3)
    assert all(isinstance(read_frame(frame), Trained) for frame in replies.values())


def test_to_debug_or_without_folding_each_leaves_as_it_did() -> None:
    mechanism = MECHANISMS["flat"]
    frames = dict.fromkeys(COHORT, task(mechanism))
    for changes in ({"debug": True}, {"fold": False}):
        host, replies, moved = there(mechanism, frames, **changes)
        assert moved == words_of(mechanism, 4, 4, 3)
        assert replies == carrying(torch.device("cpu"), mechanism, **changes).handle(frames)
        if "debug" in changes:
            report = host.handle({5: DebugRequest().to_frame()})[5]
            assert 0 < DebugReport.from_frame(report).figures[1] <= 0.7


def test_on_a_cpu_each_is_encoded_by_itself(monkeypatch) -> None:
    mechanism = MECHANISMS["flat"]
    monkeypatch.setattr(CentralGaussian, "encode_sum", None)  # so that it cannot be asked
    replies = carrying(torch.device("cpu"), mechanism).handle(
        dict.fromkeys(COHORT, task(mechanism))
    )
    assert len(replies) == len(COHORT)


class Shifting(CentralGaussian):
    """A mechanism that knows nothing of sums, and does something to each client's words."""

    def _encode(self, updates, codec, means):
        return super()._encode(updates, codec, means) + np.uint16(1)


class Doubling(CentralGaussian):
    """Another, which does it to those of all passes."""

    def encode_all(self, updates, codec, means):
        return 2 * super().encode_all(updates, codec, means)


@pytest.mark.parametrize(
    "mechanism",
    [
        SkellamNoise(clip_norm=0.7, noise_multiplier=0.9),
        Shifting(clip_norm=0.7, noise_multiplier=1, encoding=FLAT),
        Doubling(clip_norm=0.7, noise_multiplier=1, encoding=FLAT),
    ],
    ids=["noise inside", "shifting", "doubling"],
)
def test_who_does_more_to_words_than_the_codec_does_it_to_each_client_s(mechanism) -> None:
    """Of these each client's words leave the device, and are added when all is done."""
    frames = dict.fromkeys(COHORT, task(mechanism))
    _, replies, moved = there(mechanism, frames)
    assert moved == words_of(mechanism, 4, 4, 3)
    assert replies == carrying(torch.device("cpu"), mechanism).handle(frames)


@pytest.mark.parametrize("bits", [16, 21, 32])
def test_words_that_are_added_wrap_around(bits) -> None:
    """Of residues that are anywhere, as those of masks or of noise."""
    kind = np.uint16 if bits == 16 else np.uint32
    rows = np.full((5, 3), (1 << bits) - 2, dtype=kind)
    found = added(rows, bits=bits)
    assert found.dtype == kind and found.tolist() == [(1 << bits) - 10] * 3
    assert added(rows[:0], bits=bits).tolist() == [0, 0, 0]
