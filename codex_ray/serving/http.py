"""What is said over HTTP: a reply, a refusal, and the headers that every answer carries."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

JSON: Final = "application/json"

SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")


@dataclass(frozen=True)
class Reply:
    """An answer in full: nothing here is streamed."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):  # noqa: N818  # a request is refused: an answer, not a fault
    """A request that is not served, and all that the caller is told about it.

    Attributes:
        status: of HTTP.
        code: a word for programs, one of a fixed set: no part of what was sent.
        headers: such as Retry-After.
        problems: of the input, each a place in the schema and a word; no values, no sent names.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        headers: Mapping[str, str] | None = None,
        problems: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.problems = [dict(problem) for problem in problems]

    def reply(self) -> Reply:
        """What the caller gets."""
        said: dict[str, Any] = {"error": self.code}
        if self.problems:
            said["problems"] = self.problems
        return json_reply(said, status=self.status, headers=self.headers)


def later(status: int, code: str, seconds: float) -> Refused:
    """A refusal that names when to come again, in whole seconds from 1."""
    return Refused(status, code, headers={"retry-after": str(max(1, int(-(-seconds // 1))))})


def json_reply(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """`value` as JSON; a float that JSON cannot say is an error here and not at the reader's."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return Reply(body, status, JSON, headers or {})


async def send_reply(send: Send, reply: Reply, *, https: bool, close: bool, head: bool) -> None:
    """Sends `reply` with the headers that all have.

    Args:
        send: of ASGI.
        reply: what to say.
        https: whether the caller came by TLS, and is to do so again.
        close: whether the connection ends with it, because the rest of the request was not read.
        head: whether only the headers were asked for.
    """
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        *SECURITY_HEADERS,
        *((name.encode(), value.encode()) for name, value in reply.headers.items()),
    ]
    if https:
        headers.append(STRICT_TRANSPORT)
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
