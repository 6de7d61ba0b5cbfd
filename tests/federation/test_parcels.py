"""A parcel holds each distinct frame once, gives back every one, and refuses what is broken."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from codex_ray.errors import ProtocolError
from codex_ray.federation.messages import Trained, TrainTask
from codex_ray.federation.parcels import SMALL, Parcel
from codex_ray.wire import read_frame


def sent(frames: dict[int, bytes]) -> Parcel:
    return Parcel.read(Parcel(frames, 0.25).to_bytes())


def test_everyone_gets_the_frame_that_was_sent() -> None:
    frames = {7: b"seven", 3: b"", 2**32 - 1: b"x" * 999, 0: b"seven"}
    found = sent(frames)
    assert {client: bytes(frame) for client, frame in found.frames.items()} == frames
    assert list(found.frames) == sorted(frames)
    assert found.seconds == 0.25
    assert sent({}).frames == {}


def test_equal_requests_travel_once_and_are_one_object() -> None:
    """A reader that decodes by object decodes a request to a thousand clients once."""
    short = [bytes([1]) * 40 for _ in range(2)]  # equal, and not the same object
    long = b"y" * (SMALL + 1)
    frames = dict.fromkeys(range(1000), short[0]) | {1000: short[1], 1001: long, 1002: long}
    raw = Parcel(frames).to_bytes()
    assert len(raw) < 8 * 1003 + 40 + len(long) + 64
    found = Parcel.read(raw).frames
    assert len({id(frame) for frame in found.values()}) == 2
    assert found[0] is found[1000] and found[1001] is found[1002]


def test_vectors_in_a_parcel_are_views_on_aligned_memory() -> None:
    params = np.arange(100, dtype=np.float32)
    task = TrainTask(b"r" * 16, 0, 0, params).to_frame()
    raw = Parcel({0: b"odd", 1: task}).to_bytes()
    read = read_frame(Parcel.read(raw).frames[1])
    assert isinstance(read, TrainTask) and read.params.flags.aligned
    np.testing.assert_array_equal(read.params, params)
    assert np.shares_memory(read.params, np.frombuffer(raw, np.uint8))


GOOD = Parcel({1: Trained(b"a").to_frame(), 2: Trained(b"b").to_frame()}).to_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        GOOD[:10],
        GOOD[:20],
        GOOD[:-8],
        GOOD + bytes(8),
        GOOD[:16] + struct.pack("<II", 2, 1) + GOOD[24:],
        GOOD[:16] + struct.pack("<II", 1, 1) + GOOD[24:],
        GOOD[:24] + struct.pack("<II", 0, 2) + GOOD[32:],
        GOOD[:32] + struct.pack("<Q", 2**63) + GOOD[40:],
    ],
    ids=["head", "table", "cut", "long", "order", "twice", "no such frame", "size"],
)
def test_a_broken_parcel_is_refused(bad: bytes) -> None:
    with pytest.raises(ProtocolError, match="parcel"):
        Parcel.read(bad)
