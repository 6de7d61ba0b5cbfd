"""Frames for many clients, or from them, as one piece of bytes: each distinct frame is in it once.

A call that carries a request to a thousand clients carries it once, and the reader has one object
for all of them. Like a frame, a parcel is checked when it is read.

A parcel opens with the seconds that its sender worked for it, which only the simulator may look at,
and how many clients and how many frames it has. Then, all little-endian: the clients in increasing
order, the number of each one's frame, the size of each frame (a word of 4, 4 and 8 bytes each), and
the frames, each filled up with zeros to a multiple of 8 bytes, so that vectors in them are aligned.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from codex_ray.errors import ProtocolError
from codex_ray.types import ClientId
from codex_ray.wire import Frame

SMALL = 256
"""Bytes up to which frames are compared, to find the equal ones; larger ones are told by object."""

_HEAD = struct.Struct("<dII")
_ALIGNED = 8


@dataclass(frozen=True)
class Parcel:
    """Each client's frame, and how long their sender worked for them.

    Attributes:
        frames: by client.
        seconds: of work; for scheduling only, and in no result.
    """

    frames: Mapping[ClientId, Frame]
    seconds: float = 0.0

    def to_bytes(self) -> bytes:
        """The parcel as bytes."""
        clients = sorted(self.frames)
        numbers: dict[bytes | int, int] = {}
        distinct: list[Frame] = []
        which = []
        for client in clients:
            frame = self.frames[client]
            short = isinstance(frame, bytes) and len(frame) <= SMALL
            number = numbers.setdefault(frame if short else id(frame), len(distinct))  # type: ignore[arg-type]  # a short one is bytes
            if number == len(distinct):
                distinct.append(frame)
            which.append(number)
        pieces: list[Frame] = [
            _HEAD.pack(self.seconds, len(clients), len(distinct)),
            np.array([clients, which], dtype="<u4").tobytes(),
            np.array([len(frame) for frame in distinct], dtype="<u8").tobytes(),
        ]
        for frame in distinct:
            pieces += [frame, bytes(-len(frame) % _ALIGNED)]
        return b"".join(pieces)

    @classmethod
    def read(cls, raw: Frame) -> Self:
        """The parcel that `raw` holds; its frames are views of `raw`, one object for equal ones.

        Raises:
            ProtocolError: it is cut, too long, or does not say who gets what.
        """
        view = memoryview(raw)
        if len(view) < _HEAD.size:
            raise ProtocolError("parcel is cut: it has no head")
        seconds, people, count = _HEAD.unpack_from(view)
        start = _HEAD.size + 8 * (people + count)
        if len(view) < start:
            raise ProtocolError(f"parcel is cut: {start} bytes wanted of {len(view)}")
        told = np.frombuffer(view, dtype="<u4", count=2 * people, offset=_HEAD.size)
        clients, which = told[:people], told[people:]
        if np.any(clients[1:] <= clients[:-1]) or np.any(which >= count):
            raise ProtocolError("parcel does not say which frame is whose")
        sizes = np.frombuffer(view, dtype="<u8", count=count, offset=start - 8 * count).tolist()
        frames = []
        for size in sizes:
            frames.append(view[start : start + size])
            start += size + -size % _ALIGNED
        if start != len(view):
            raise ProtocolError(f"parcel has {len(view)} bytes, and frames that take {start}")
        chosen = zip(clients.tolist(), which.tolist(), strict=True)
        return cls({client: frames[number] for client, number in chosen}, seconds)
