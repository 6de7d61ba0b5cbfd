"""The first of ours that sees a request on Ray Serve: it leaves no header to Serve but the guard's.

Serve reads some headers of a request itself, before the guard is asked: one switches off its time
limit, others choose replicas or are decoded as UTF-8, which fails with 500 where they are not. They
are for whoever runs Serve. So a request goes on with what the guard reads, and with nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from codex_ray.serving.http import Message, Receive, Scope, Send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

IMPORTED_AS: Final = "codex_ray.serving.front:middlewares"
"""How Serve's processes find `middlewares`."""

READ: Final = frozenset(
    name.encode()
    for name in (
        *("authorization", "content-encoding", "content-length", "content-type", "host"),
        *("transfer-encoding", "x-forwarded-for", "x-forwarded-proto"),
    )
)
"""What the guard decides by."""

BODY_BYTES: Final = "CODEX_RAY_SERVE_BODY_BYTES"
"""Environment variable: how many the guard takes."""
MOST_BYTES: Final = 16 * 2**20
"""That any guard takes."""

NOBODY_WATCHES: Final = (b"x-request-disconnect-disabled", b"?1")
"""Serve need not look out for callers that go away: whoever reads the body sees it."""


class Front:
    """An ASGI application around Serve's own."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        told = os.environ.get(BODY_BYTES, "")
        self._most = int(told) if told.isdecimal() else MOST_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on a request with the headers that the guard reads."""
        if scope["type"] in ("http", "websocket"):
            kept = [pair for pair in scope["headers"] if pair[0] in READ]
            scope = {**scope, "headers": [*kept, NOBODY_WATCHES]}
        if scope["type"] == "http":
            receive = _body_alone(receive, most=self._most)
        await self._app(scope, receive, send)


def _body_alone(receive: Receive, *, most: int) -> Receive:
    """What gives the body, and after its end says at once that nothing comes any more.

    A replica asks Serve's proxy for what a caller sends, with a message each time, and goes on
    asking until the caller has gone. After the body there is nothing that it could want to know.
    And the proxy reads ahead, whatever the replica does: of a body that has `most` bytes the part
    with the next one is the last, by which the guard sees that it is too large.
    """
    ended, size = False, 0

    async def ours() -> Message:
        nonlocal ended, size
        if ended:
            return {"type": "http.disconnect"}
        message = await receive()
        size += len(message.get("body", b""))
        ended = size > most or not message.get("more_body", False)
        return message

    return ours


def middlewares() -> list[object]:
    """The front as Serve's proxy takes it."""
    from starlette.middleware import Middleware

    return [Middleware(Front)]
