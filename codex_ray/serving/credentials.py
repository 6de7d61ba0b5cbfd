"""What somebody shows to say who they are: `Authorization: Bearer`, with a key or a token."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from codex_ray.serving.api_keys import PREFIX, KeyRing
from codex_ray.serving.caller import Caller
from codex_ray.serving.http import Refused
from codex_ray.serving.tokens import BadToken, TokenReader

_BEARER: Final = re.compile(rb"[Bb]earer ([A-Za-z0-9._~+/=-]{1,2048})")


class Credentials:
    """Keys and tokens that are believed.

    Args:
        ring: the keys as they are now.
        tokens: who reads tokens; None where no issuer is trusted.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        ring: Callable[[], KeyRing],
        *,
        tokens: TokenReader | None,
        clock: Callable[[], float],
    ) -> None:
        self._ring = ring
        self._tokens = tokens
        self._clock = clock

    def caller(self, authorization: bytes | None) -> Caller:
        """Whoever shows this.

        Raises:
            Refused: 401; the same for every reason, so that it teaches nothing.
        """
        shown = None if authorization is None else _BEARER.fullmatch(authorization)
        found = None if shown is None else self._holder(shown[1].decode("ascii"))
        if found is None:
            raise Refused(401, "unauthorized", headers={"www-authenticate": "Bearer"})
        return found

    def _holder(self, shown: str) -> Caller | None:
        now = self._clock()
        if shown.startswith(PREFIX):
            return self._ring().holder(shown, now)
        if self._tokens is None:
            return None
        try:
            return self._tokens.holder(shown, now)
        except BadToken:
            return None
