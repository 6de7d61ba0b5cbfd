"""Frames: every message between two roles is a tag and its typed fields, as validated bytes.

No role ever receives an arbitrary Python object. A message class declares its fields as a dataclass
and gets `to_frame` from here; `read_frame` rebuilds it, and refuses every frame that is cut, too
long, of an unknown tag, or of a kind that the reader did not ask for.

The tag takes 4 bytes, so that a vector that comes first is aligned. Layouts, all little-endian:
`int` 8 bytes; `bytes` a 4-byte length and the bytes; `Words` (uint32 vector) and `Floats` (float32
vector) a 4-byte count and the words; `tuple[int, ...]` a 4-byte count and 4 bytes each; `dict[int,
bytes]` a 4-byte count and for each entry, in increasing order of the key, 4 bytes of key, a 4-byte
length and the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeAlias, get_type_hints

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ProtocolError
from codex_ray.types import Stage

Words: TypeAlias = npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float32]
Frame: TypeAlias = bytes | memoryview

_U32 = struct.Struct("<I")
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
        return int(_U32.unpack(self.take(4))[0])

    def done(self) -> None:
        if self._at != len(self._view):
            raise ProtocolError(f"frame has {len(self._view) - self._at} bytes too many")


def _write_words(value: npt.NDArray[Any], dtype: str) -> bytes:
    array = np.ascontiguousarray(value, dtype=dtype)
    if array.ndim != 1:
        raise ProtocolError(f"a frame carries vectors, not an array of shape {array.shape}")
    return _U32.pack(array.size) + array.tobytes()


def _read_words(reader: _Reader, dtype: str) -> npt.NDArray[Any]:
    return np.frombuffer(reader.take(4 * reader.count()), dtype=dtype)


def _write_map(value: dict[int, bytes]) -> bytes:
    parts = [_U32.pack(len(value))]
    for key in sorted(value):
        parts += [_U32.pack(key), _U32.pack(len(value[key])), value[key]]
    return b"".join(parts)


def _read_map(reader: _Reader) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    last = -1
    for _ in range(reader.count()):
        key = reader.count()
        if key <= last:
            raise ProtocolError(f"frame lists client {key} after {last}: keys must increase")
        found[key] = bytes(reader.take(reader.count()))
        last = key
    return found


_Codec = tuple[Callable[[Any], bytes], Callable[[_Reader], Any]]
_CODECS: dict[Any, _Codec] = {
    int: (_I64.pack, lambda r: _I64.unpack(r.take(8))[0]),
    bytes: (lambda v: _U32.pack(len(v)) + v, lambda r: bytes(r.take(r.count()))),
    Words: (lambda v: _write_words(v, "<u4"), lambda r: _read_words(r, "<u4")),
    Floats: (lambda v: _write_words(v, "<f4"), lambda r: _read_words(r, "<f4")),
    tuple[int, ...]: (
        lambda v: _U32.pack(len(v)) + struct.pack(f"<{len(v)}I", *v),
        lambda r: tuple(int(x) for x in _read_words(r, "<u4")),
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
        """The message as bytes: its tag, then the fields in the order of their declaration."""
        parts = [_U32.pack(self.tag)]
        parts += [codec[0](getattr(self, name)) for name, codec in self._layout()]
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
        ProtocolError: the frame is empty or its tag is unknown.
    """
    tag = int.from_bytes(frame[:4], "little")
    if len(frame) < 4 or tag not in Message._kinds:
        raise ProtocolError(f"frame of unknown kind ({bytes(frame[:4]).hex() or 'empty'})")
    return Message._kinds[tag]


def read_frame(frame: Frame) -> Message:
    """The message that `frame` holds; vectors are read-only views of the frame.

    Raises:
        ProtocolError: the frame is empty, of an unknown kind, cut, or too long.
    """
    kind = kind_of(frame)
    reader = _Reader(memoryview(frame)[4:])
    values = {name: codec[1](reader) for name, codec in kind._layout()}
    reader.done()
    return kind(**values)
