"""API keys: made here, shown once, and kept only as a hash.

A key reads `crk_ID.SECRET`: 8 random bytes that name it and may be seen by anyone, and 32 that
nobody can guess. A plain SHA-256 is enough to keep it: slow hashes such as Argon2 protect secrets
that people choose, from which a thief of the file could try likely ones; of 2^256 equally likely
secrets none can be tried in time, and a slow hash would only let strangers make the server work.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from codex_ray.errors import InputError
from codex_ray.serving.caller import Caller

PREFIX: Final = "crk_"
SECRET_BYTES: Final = 32
_WRITTEN: Final = re.compile(r"crk_([0-9a-f]{16})\.([A-Za-z0-9_-]{43})")
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_NOBODY: Final = bytes(32)


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key; times are in seconds since 1970.

    Attributes:
        id: 16 hexadecimal digits, public.
        sha256: of the secret, in hex.
        name: whose it is, or what for; for the one who keeps the file.
        roles: what the policy knows the holder by.
        scopes: patterns of actions that it is for.
        created: when.
        expires: from when on it is refused.
        revoked: when it was revoked; None if it was not.
        replaced_by: the id of the key that took its place at a rotation.
        budget: records that it may ever ask about; a rotated key goes on with what is left.
        rate: requests a second; None is the server's.
        account: under which the budget is kept: the id of the first key in a line of rotations.
    """

    id: str
    sha256: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    created: float
    expires: float
    revoked: float | None = None
    replaced_by: str | None = None
    budget: int | None = None
    rate: float | None = None
    account: str = ""

    def state(self, now: float) -> str:
        """Active, expired or revoked; for good, whatever the clock said of whoever revoked it."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires <= now else "active"

    @property
    def caller(self) -> Caller:
        """Its holder."""
        return Caller(self.account or self.id, self.roles, self.scopes, self.budget, self.rate)


def new_key(
    name: str,
    *,
    roles: Iterable[str],
    scopes: Iterable[str],
    now: float,
    seconds: float,
    budget: int | None = None,
    rate: float | None = None,
) -> tuple[ApiKey, str]:
    """A key as it is kept, and as it is shown this once.

    Raises:
        InputError: a name, role or scope is empty or odd, or a number is out of range.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r}: a key's name is of 1 to 64 letters, digits or one of . _ @ -")
    wanted = tuple(roles), tuple(scopes)
    if not wanted[0] or not wanted[1]:
        raise InputError("a key without a role or a scope opens nothing: give --role and --scope")
    if not 60 <= seconds <= 366 * 86400:
        raise InputError("a key is good for a minute to a year: make another when it expires")
    if budget is not None and budget < 1:
        raise InputError(f"a budget of {budget} records answers nothing: give 1 or more")
    if rate is not None and not 0 < rate <= 1e6:
        raise InputError(f"a rate of {rate} requests a second: give more than 0, up to 1e6")
    identity, secret = secrets.token_hex(8), secrets.token_bytes(SECRET_BYTES)
    kept = ApiKey(
        id=identity,
        sha256=hashlib.sha256(secret).hexdigest(),
        name=name,
        roles=wanted[0],
        scopes=wanted[1],
        created=now,
        expires=now + seconds,
        budget=budget,
        rate=rate,
        account=identity,
    )
    return kept, f"{PREFIX}{identity}.{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


def rotated(
    old: ApiKey, *, now: float, seconds: float, overlap: float
) -> tuple[ApiKey, ApiKey, str]:
    """The old key, which ends after `overlap` seconds; the new one; and the new one as shown.

    Raises:
        InputError: the old one is not active.
    """
    if (state := old.state(now)) != "active":
        raise InputError(f"key {old.id} is {state}: make a new one with access key create")
    if overlap < 0:
        raise InputError(f"--overlap {overlap}: give 0 or more")
    new, shown = new_key(
        old.name,
        roles=old.roles,
        scopes=old.scopes,
        now=now,
        seconds=seconds,
        budget=old.budget,
        rate=old.rate,
    )
    ends = min(old.expires, now + overlap)
    new = replace(new, account=old.account or old.id)
    return replace(old, expires=ends, replaced_by=new.id), new, shown


class KeyRing:
    """The keys that a server believes, by id."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def holder(self, shown: str, now: float) -> Caller | None:
        """Whose key `shown` is; None if it is nobody's, or expired or revoked.

        An unknown id takes the same steps as a known one, so that time does not tell which ids
        there are.
        """
        parts = _WRITTEN.fullmatch(shown)
        if parts is None:
            return None
        key = self._keys.get(parts[1])
        secret = base64.urlsafe_b64decode(parts[2] + "=")
        kept = _NOBODY if key is None else bytes.fromhex(key.sha256)
        same = hmac.compare_digest(hashlib.sha256(secret).digest(), kept)
        if key is None or not same or key.state(now) != "active":
            return None
        return key.caller


def to_plain(key: ApiKey) -> dict[str, Any]:
    """A key as the file has it."""
    return {
        **{name: getattr(key, name) for name in ApiKey.__dataclass_fields__},
        "roles": list(key.roles),
        "scopes": list(key.scopes),
    }


def from_plain(value: Any) -> ApiKey:
    """The key that `to_plain` wrote.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict) or set(value) != set(ApiKey.__dataclass_fields__):
        raise ValueError("an entry is no key")
    texts = [value["id"], value["sha256"], value["name"], value["account"]]
    lists = [value["roles"], value["scopes"]]
    right = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(it, list) and all(isinstance(x, str) for x in it) for it in lists)
        and re.fullmatch("[0-9a-f]{16}", value["id"])
        and re.fullmatch("[0-9a-f]{64}", value["sha256"])
        and all(isinstance(value[name], int | float) for name in ("created", "expires"))
        and all(isinstance(value[x], int | float | None) for x in ("revoked", "budget", "rate"))
        and isinstance(value["replaced_by"], str | None)
    )
    if not right:
        raise ValueError("an entry has a field of the wrong type")
    return ApiKey(**(value | {"roles": tuple(value["roles"]), "scopes": tuple(value["scopes"])}))
