"""Who asks: what a key or a token says about its holder, once it has been believed."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.serving.patterns import matches


@dataclass(frozen=True)
class Caller:
    """A holder of a key or a token.

    Attributes:
        id: public: the key's id, or the token's subject with a prefix; never a secret.
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
