"""Frames: every message between two roles is a tag and its typed fields, as validated bytes.

No role ever receives an arbitrary Python object. A message class declares its fields as a dataclass
and gets `to_frame` from here; `read_frame` rebuilds it, and refuses every frame that is cut, too
long, of an unknown tag, or of a kind that the reader did not ask for.

A frame opens with the tag and the version of the encoding, 2 bytes each. Layouts of the fields, all
little-endian: `int` 8 bytes; `bytes` a 4-byte length and the bytes; `Floats` (float32 vector) a
4-byte count and the words; `Words` (unsigned vector) the same after 4 bytes that give the size of a
word, 1, 2 or 4; `tuple[int, ...]` a 4-byte count and 4 bytes each; `dict[int, bytes]` a 4-byte
count and for each entry, in increasing order of the key, 4 bytes of key, a 4-byte length and the
bytes. So a vector that comes first is aligned, and a message has one encoding only.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeAlias, get_type_hints

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError
from codex_ray.types import Stage

VERSION = 2
"""Of the encoding: a frame of any other is refused."""

Words: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float32]
Frame: TypeAlias = bytes | memoryview

_HEAD = struct.Struct("<HH")
_U32 = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
_I64 = struct.Struct("<q")


class _Reader:
    """A cursor over a frame that refuses to read past its end."""

    def __init__(self, frame: Frame) -> None:
        self._view = memoryview(frame)
        self._at = 0

    def take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._view):
            raise ProtocolError(
                f"frame is cut: {count} bytes wanted at {self._at} of {len(self._view)}"
            )
        piece = self._view[self._at : end]
        self._at = end
        return piece

    def count(self) -> int:
        at = self._at
        if at + 4 > len(self._view):
            raise ProtocolError(f"frame is cut: a count wanted at {at} of {len(self._view)}")
        self._at = at + 4
        return int(_U32.unpack_from(self._view, at)[0])

    def entries(self, count: int) -> dict[int, bytes]:
        """So many entries of a map: keys that increase, each with as many bytes as it says."""
        found = self._alike(count)
        return self._unlike(count) if found is None else found

    def _alike(self, count: int) -> dict[int, bytes] | None:
        """The same where all have as many bytes as the first, as nearly always; else None."""
        at, end = self._at, len(self._view)
        if count == 0 or at + _ENTRY.size > end:
            return None
        size = _ENTRY.unpack_from(self._view, at)[1]
        after = at + count * (_ENTRY.size + size)
        if after > end:
            return None
        keys, sizes, pieces = zip(
            *struct.iter_unpack(f"<II{size}s", self._view[at:after]), strict=True
        )
        if set(sizes) != {size} or any(map(operator.ge, keys, keys[1:])):
            return None
        self._at = after
        return dict(zip(keys, pieces, strict=True))

    def _unlike(self, count: int) -> dict[int, bytes]:
        view, end, at, last = self._view, len(self._view), self._at, -1
        found: dict[int, bytes] = {}
        for _ in range(count):
            start = at + _ENTRY.size
            if start > end:
                raise ProtocolError(f"frame is cut: an entry wanted at {at} of {end}")
            key, size = _ENTRY.unpack_from(view, at)
            at = start + size
            if at > end:
                raise ProtocolError(f"frame is cut: {size} bytes wanted at {start} of {end}")
            if key <= last:
                raise ProtocolError(f"frame lists client {key} after {last}: keys must increase")
            found[key] = bytes(view[start:at])
            last = key
        self._at = at
        return found

    def done(self) -> None:
        if self._at != len(self._view):
            raise ProtocolError(f"frame has {len(self._view) - self._at} bytes too many")


_Pieces: TypeAlias = list[bytes | memoryview]
"""What a field adds to a frame: joined once, so that a vector is copied once."""


def _write_vector(value: npt.NDArray[Any], dtype: str) -> _Pieces:
    array = np.ascontiguousarray(value, dtype=dtype)
    if array.ndim != 1:
        raise ProtocolError(f"a frame carries vectors, not an array of shape {array.shape}")
    return [_U32.pack(array.size), array.data]


def _read_vector(reader: _Reader, dtype: str) -> npt.NDArray[Any]:
    return np.frombuffer(reader.take(np.dtype(dtype).itemsize * reader.count()), dtype=dtype)


def _write_words(value: Words) -> _Pieces:
    size = value.dtype.itemsize
    if value.dtype.kind != "u" or size not in (1, 2, 4):
        raise ProtocolError(f"a frame carries words of 1, 2 or 4 bytes, not {value.dtype}")
    return [_U32.pack(size), *_write_vector(value, f"<u{size}")]


def _read_words(reader: _Reader) -> Words:
    size = reader.count()
    if size not in (1, 2, 4):
        raise ProtocolError(f"frame has words of {size} bytes: 1, 2 or 4 are known")
    return _read_vector(reader, f"<u{size}")


def _write_map(value: dict[int, bytes]) -> _Pieces:
    parts: _Pieces = [_U32.pack(len(value))]
    for key, raw in sorted(value.items()):
        parts += (_ENTRY.pack(key, len(raw)), raw)
    return parts


def _read_map(reader: _Reader) -> dict[int, bytes]:
    return reader.entries(reader.count())


_Codec = tuple[Callable[[Any], _Pieces], Callable[[_Reader], Any]]
_CODECS: dict[Any, _Codec] = {
    int: (lambda v: [_I64.pack(v)], lambda r: _I64.unpack(r.take(8))[0]),
    bytes: (lambda v: [_U32.pack(len(v)), v], lambda r: bytes(r.take(r.count()))),
    Words: (_write_words, _read_words),
    Floats: (lambda v: _write_vector(v, "<f4"), lambda r: _read_vector(r, "<f4")),
    tuple[int, ...]: (
        lambda v: [_U32.pack(len(v)), struct.pack(f"<{len(v)}I", *v)],
        lambda r: tuple(_read_vector(r, "<u4").tolist()),
    ),
    dict[int, bytes]: (_write_map, _read_map),
}


class Message:
    """The base of every message: a frozen dataclass with a `tag` and its `stage`."""

    tag: ClassVar[int]
    stage: ClassVar[Stage]
    _kinds: ClassVar[dict[int, type[Message]]] = {}

    def __init_subclass__(cls, *, tag: int, stage: Stage) -> None:
        super().__init_subclass__()
        if tag in Message._kinds:
            raise TypeError(f"tag {tag} is both {Message._kinds[tag].__name__} and {cls.__name__}")
        cls.tag, cls.stage = tag, stage
        Message._kinds[tag] = cls

    @classmethod
    def _layout(cls) -> list[tuple[str, _Codec]]:
        cached: list[tuple[str, _Codec]] | None = cls.__dict__.get("_layout_cache")
        if cached is None:
            hints = get_type_hints(cls)
            cached = [(f.name, _CODECS[hints[f.name]]) for f in fields(cls)]  # type: ignore[arg-type]  # every subclass is a dataclass
            cls._layout_cache = cached  # type: ignore[attr-defined]  # filled on first use
        return cached

    def to_frame(self) -> bytes:
        """The message as bytes: tag, version, then the fields in the order of their declaration."""
        parts: _Pieces = [_HEAD.pack(self.tag, VERSION)]
        for name, codec in self._layout():
            parts += codec[0](getattr(self, name))
        return b"".join(parts)

    @classmethod
    def from_frame(cls, frame: Frame) -> Self:
        """The message of this class that `frame` holds.

        Raises:
            ProtocolError: the frame is of another kind, cut, or too long.
        """
        message = read_frame(frame)
        if not isinstance(message, cls):
            raise ProtocolError(f"{cls.__name__} was expected, {type(message).__name__} came")
        return message


def kind_of(frame: Frame) -> type[Message]:
    """The message class that `frame` says it is.

    Raises:
        ProtocolError: the frame is empty, of another version, or its tag is unknown.
    """
    if len(frame) < _HEAD.size:
        raise ProtocolError("frame is cut: it has no head")
    tag, version = _HEAD.unpack(frame[: _HEAD.size])
    if version != VERSION:
        raise ProtocolError(f"frame of version {version}: this side speaks version {VERSION}")
    if tag not in Message._kinds:
        raise ProtocolError(f"frame of unknown kind ({tag})")
    return Message._kinds[tag]


def read_frame(frame: Frame) -> Message:
    """The message that `frame` holds; vectors are read-only views of the frame.

    Raises:
        ProtocolError: the frame is empty, of an unknown kind, cut, or too long.
    """
    kind = kind_of(frame)
    reader = _Reader(memoryview(frame)[_HEAD.size :])
    values = {name: codec[1](reader) for name, codec in kind._layout()}
    reader.done()
    return kind(**values)


def frames_of(outbox: Mapping[int, Message]) -> dict[int, bytes]:
    """Each receiver's frame; a message for many, known by being one object, is written once."""
    messages = {id(message): message for message in outbox.values()}
    written = {key: message.to_frame() for key, message in messages.items()}
    return {receiver: written[id(message)] for receiver, message in outbox.items()}


class FrameReader:
    """Reads the frames of one call; one for many, known by being one object, is read once."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[Frame, Message]] = {}  # the frame is kept, so its id is its own

    def read(self, frame: Frame) -> Message:
        """The message that `frame` holds; the same object for the same frame.

        Raises:
            ProtocolError: the frame is empty, of an unknown kind, cut, or too long.
        """
        known = self._read.get(id(frame))
        if known is None:
            known = self._read[id(frame)] = (frame, read_frame(frame))
        return known[1]
