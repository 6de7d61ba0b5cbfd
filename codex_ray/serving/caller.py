"""Who asks: what a key or a token says about its holder, once it has been believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codex_ray.serving.patterns import matches

TOKEN: Final = "token:"
"""What the id of a token's holder begins with; a key's is hexadecimal digits."""


@dataclass(frozen=True)
class Caller:
    """A holder of a key or a token.

    Attributes:
        id: the key's id, which is public, or `TOKEN` with the issuer and the subject, who may be a
            person; never a secret.
        roles: what the policy knows it by.
        scopes: patterns of actions; whatever the policy allows, nothing beyond them is done.
        budget: records that it may ever ask about; None is no limit.
        rate: requests a second; None is the server's.
    """

    id: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    budget: int | None = None
    rate: float | None = None

    def in_scope(self, action: str) -> bool:
        """Whether the key or token was made for `action`."""
        return any(matches(scope, action) for scope in self.scopes)
