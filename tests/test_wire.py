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
WORDS = st.sampled_from([np.uint8, np.uint16, np.uint32]).flatmap(
    lambda kind: st.lists(st.integers(0, np.iinfo(kind).max), max_size=8).map(
        lambda words: np.array(words, dtype=kind)
    )
)


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
    WORDS,
    st.lists(st.floats(width=32, allow_nan=False), max_size=8),
    st.lists(IDS, max_size=8),
    st.dictionaries(IDS, st.binary(max_size=9), max_size=5),
)
def test_a_message_comes_back_as_it_was(number, raw, words, floats, ids, sealed) -> None:
    message = Everything(
        number,
        raw,
        words,
        np.array(floats, dtype=np.float32),
        tuple(ids),
        sealed,
    )
    back = Everything.from_frame(message.to_frame())
    assert (back.number, back.raw, back.ids, back.sealed) == (number, raw, tuple(ids), sealed)
    np.testing.assert_array_equal(back.words, words)
    assert back.words.dtype == words.dtype
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
        kind_of(b"\xff\0\2\0")


def test_another_kind_than_expected_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="Trained was expected"):
        Trained.from_frame(frame)


def test_a_map_with_keys_out_of_order_is_refused() -> None:
    good = Everything(
        0, b"", *[np.zeros(0, t) for t in (np.uint32, np.float32)], (), {1: b"", 2: b""}
    )
    frame = good.to_frame()
    for entries in (frame[-8:] + frame[-16:-8], frame[-8:] * 2):
        with pytest.raises(ProtocolError, match="must increase"):
            read_frame(frame[:-16] + entries)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {7: b""},
        {7: b"abc"},
        {0: b"abc", 9: b"def", 4_294_967_295: b"ghi"},
        {0: b"abc", 9: b"de", 10: b"fgh"},
        {0: b"", 9: b"de"},
        {0: b"abc", 9: b"", 10: b"x" * 40},
    ],
)
def test_a_map_may_hold_pieces_of_one_length_or_of_many(entries: dict[int, bytes]) -> None:
    whole = Everything(0, b"", *[np.zeros(0, t) for t in (np.uint32, np.float32)], (), entries)
    frame = whole.to_frame()
    read = read_frame(memoryview(frame))
    assert isinstance(read, Everything)
    assert list(read.sealed.items()) == list(entries.items())
    assert all(type(piece) is bytes for piece in read.sealed.values())
    for cut in range(1, sum(8 + len(piece) for piece in entries.values()) + 1):
        with pytest.raises(ProtocolError, match="frame is cut"):
            read_frame(frame[:-cut])
    with pytest.raises(ProtocolError, match="1 bytes too many"):
        read_frame(frame + b"\0")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_the_layout_of_words(kind: type) -> None:
    words = np.array([1, 255], dtype=kind)
    size = words.itemsize
    body = b"".join(number.to_bytes(size, "little") for number in (1, 255))
    want = bytes([21, 0, 2, 0]) + bytes([size, 0, 0, 0]) + bytes([2, 0, 0, 0]) + body
    assert MaskedInput(words).to_frame() == want


def test_words_in_another_byte_order_have_the_same_encoding() -> None:
    words = np.array([1, 258, 2**31], dtype=np.uint32)
    assert MaskedInput(words.astype(">u4")).to_frame() == MaskedInput(words).to_frame()


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64, np.float32, np.bool_])
def test_no_other_word_is_written(kind: type) -> None:
    with pytest.raises(ProtocolError, match=f"1, 2 or 4 bytes, not {np.dtype(kind)}"):
        MaskedInput(np.zeros(3, dtype=kind)).to_frame()


@pytest.mark.parametrize("size", [0, 3, 5, 8, 2**31])
def test_no_other_word_is_read(size: int) -> None:
    frame = MaskedInput(np.zeros(6, dtype=np.uint32)).to_frame()
    with pytest.raises(ProtocolError, match=f"words of {size} bytes"):
        read_frame(frame[:4] + size.to_bytes(4, "little") + frame[8:])


def test_a_matrix_is_not_written() -> None:
    with pytest.raises(ProtocolError, match=r"shape \(2, 3\)"):
        MaskedInput(np.zeros((2, 3), dtype=np.uint32)).to_frame()


@pytest.mark.parametrize("version", [0, 1, 3, 65535])
def test_another_version_is_refused(frame: bytes, version: int) -> None:
    with pytest.raises(ProtocolError, match=f"frame of version {version}: .* version 2"):
        read_frame(frame[:2] + version.to_bytes(2, "little") + frame[4:])


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_a_vector_that_comes_first_is_aligned(kind: type) -> None:
    words = np.arange(4, dtype=kind)
    back = MaskedInput.from_frame(MaskedInput(words).to_frame()).words
    assert back.ctypes.data % words.itemsize == 0


def test_a_vector_read_from_a_frame_cannot_be_written(frame: bytes) -> None:
    with pytest.raises(ValueError, match="read-only"):
        TrainTask.from_frame(frame).params[0] = 1.0
