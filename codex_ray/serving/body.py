"""Reading a body that a stranger sends: so many bytes, so many seconds, and then no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from codex_ray.serving.http import Receive, Refused

Headers = Sequence[tuple[bytes, bytes]]
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_ONCE: Final = frozenset(
    name.encode()
    for name in (
        *("authorization", "content-encoding", "content-length", "content-type", "host"),
        *("transfer-encoding", "x-forwarded-proto"),
    )
)
_JSON_TYPES: Final = (b"application/json", b"application/json;charset=utf-8")


class Disconnected(Exception):  # noqa: N818  # what happened, and nobody is left to be told
    """The caller went away before all had come."""


def one_of_each(headers: Headers) -> dict[bytes, bytes]:
    """The headers by name, several of one joined; of those that decide anything there is one.

    Raises:
        Refused: 400, two of one name: readers would disagree on which counts.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in found and name in _ONCE:
            raise Refused(400, "header_twice")
        found[name] = found[name] + b"," + value if name in found else value
    return found


def check_length(headers: dict[bytes, bytes], *, most: int) -> None:
    """Decides by the headers alone whether the body is worth reading.

    Raises:
        Refused: 400 for a length that is none, or a length and chunks; 411 for neither; 413 for
            too many bytes; 415 for anything but plain JSON.
    """
    length, chunked = headers.get(b"content-length"), b"transfer-encoding" in headers
    if length is not None and chunked:
        raise Refused(400, "length_and_chunks")
    if length is None and not chunked:
        raise Refused(411, "length_required")
    if length is not None:
        if not _DIGITS.fullmatch(length):
            raise Refused(400, "bad_length")
        if int(length) > most:
            raise Refused(413, "too_large")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, "encoded_body")
    kind = headers.get(b"content-type", b"").lower().replace(b" ", b"").replace(b'"', b"")
    if kind not in _JSON_TYPES:
        raise Refused(415, "not_json_type")


def refuse_body(headers: dict[bytes, bytes]) -> None:
    """Raises Refused (413) where a body comes to a door that takes none."""
    if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
        raise Refused(413, "no_body_here")


async def read_body(receive: Receive, *, most: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refused: 413 as soon as it is longer than `most`, whatever was announced; 408 after
            `seconds`, however steadily it dribbles.
        Disconnected: the caller has gone.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Disconnected
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise Refused(413, "too_large")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, "too_slow") from None
