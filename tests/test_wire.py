"""Frames carry exactly what was put in, and refuse everything else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.errors import ProtocolError
from codex_ray.federation.messages import Trained, TrainTask
from codex_ray.secagg.messages import MaskedInput
from codex_ray.types import Stage
from codex_ray.wire import Floats, Message, Words, kind_of, read_frame

IDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Everything(Message, tag=250, stage=Stage.DEBUG):
    number: int
    raw: bytes
    words: Words
    floats: Floats
    ids: tuple[int, ...]
    sealed: dict[int, bytes]


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=20),
    st.lists(IDS, max_size=8),
    st.lists(st.floats(width=32, allow_nan=False), max_size=8),
    st.lists(IDS, max_size=8),
    st.dictionaries(IDS, st.binary(max_size=9), max_size=5),
)
def test_a_message_comes_back_as_it_was(number, raw, words, floats, ids, sealed) -> None:
    message = Everything(
        number,
        raw,
        np.array(words, dtype=np.uint32),
        np.array(floats, dtype=np.float32),
        tuple(ids),
        sealed,
    )
    back = Everything.from_frame(message.to_frame())
    assert (back.number, back.raw, back.ids, back.sealed) == (number, raw, tuple(ids), sealed)
    np.testing.assert_array_equal(back.words, message.words)
    np.testing.assert_array_equal(back.floats, message.floats)
    assert back.to_frame() == message.to_frame()


@pytest.fixture
def frame() -> bytes:
    return TrainTask(b"r" * 16, 3, 1, np.arange(5, dtype=np.float32)).to_frame()


def test_every_cut_is_refused(frame: bytes) -> None:
    for length in range(len(frame)):
        with pytest.raises(ProtocolError):
            read_frame(frame[:length])


def test_a_longer_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="too many"):
        read_frame(frame + b"\0")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown kind"):
        kind_of(b"\xff\0\0\0")


def test_another_kind_than_expected_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="Trained was expected"):
        Trained.from_frame(frame)


def test_a_map_with_keys_out_of_order_is_refused() -> None:
    good = Everything(
        0, b"", *[np.zeros(0, t) for t in (np.uint32, np.float32)], (), {1: b"", 2: b""}
    )
    frame = good.to_frame()
    swapped = frame[:-16] + frame[-8:] + frame[-16:-8]
    with pytest.raises(ProtocolError, match="must increase"):
        read_frame(swapped)


def test_a_vector_that_comes_first_is_aligned() -> None:
    words = np.arange(4, dtype=np.uint32)
    assert MaskedInput.from_frame(MaskedInput(words).to_frame()).words.ctypes.data % 4 == 0


def test_a_vector_read_from_a_frame_cannot_be_written(frame: bytes) -> None:
    with pytest.raises(ValueError, match="read-only"):
        TrainTask.from_frame(frame).params[0] = 1.0
