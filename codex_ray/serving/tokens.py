"""Bearer tokens: JSON Web Tokens with one algorithm, Ed25519 (RFC 7519, RFC 8037).

A token's header does not choose how it is checked. Its `alg` must be EdDSA, its `kid` one of the
issuers that the server was started with, and nothing else may be in it, so `none`, HMAC under a
public key, embedded keys and fetched keys have no code that they could reach.
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from codex_ray.errors import InputError
from codex_ray.records.canonical import read_json
from codex_ray.records.keys import SigningKey, TrustedKey
from codex_ray.serving.caller import TOKEN, Caller

LONGEST: Final = 2048
"""Characters of a token."""
LONGEST_LIFE: Final = 86400.0
"""Seconds from `iat` to `exp`: a token cannot be revoked, so it must end by itself."""
SKEW: Final = 30.0
"""Seconds by which the clocks of issuer and server may differ."""
_PART: Final = re.compile(r"[A-Za-z0-9_-]+")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_CLAIMS: Final = {"iss", "aud", "sub", "roles", "scope", "iat", "nbf", "exp", "jti", "budget"}


class BadToken(Exception):  # noqa: N818  # names what was shown, not a fault
    """A token that is not believed; the reason is for tests and never for the caller."""


@dataclass(frozen=True)
class Terms:
    """What a token grants.

    Attributes:
        subject: whose it is.
        audience: the server that it is for.
        roles: what the policy knows the holder by.
        scopes: patterns of actions.
        seconds: how long it is good for.
        budget: records that the subject may ever ask about; None is no limit.
    """

    subject: str
    audience: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    seconds: float
    budget: int | None = None


def issue_token(key: SigningKey, terms: Terms, *, now: float) -> str:
    """A token, signed.

    Raises:
        InputError: it would be good for no time or for more than a day, or names nothing.
    """
    if not 1 <= terms.seconds <= LONGEST_LIFE:
        raise InputError("a token is good for 1 second to a day: it cannot be revoked")
    if not _SUBJECT.fullmatch(terms.subject):
        raise InputError(f"{terms.subject!r}: a subject is of 1 to 64 of A-Z a-z 0-9 . _ @ -")
    if not terms.roles or not terms.scopes or any(" " in scope for scope in terms.scopes):
        raise InputError("a token needs a role and a scope, and a scope has no space in it")
    header = {"alg": "EdDSA", "kid": key.public.fingerprint, "typ": "JWT"}
    claims: dict[str, Any] = {
        "iss": key.public.fingerprint,
        "aud": terms.audience,
        "sub": terms.subject,
        "roles": list(terms.roles),
        "scope": " ".join(terms.scopes),
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now + terms.seconds),
        "jti": secrets.token_hex(16),
    }
    if terms.budget is not None:
        claims["budget"] = terms.budget
    signed = f"{_packed(header)}.{_packed(claims)}"
    return f"{signed}.{_base64(key.sign(signed.encode()))}"


class TokenReader:
    """What believes tokens of some issuers that were made for one audience."""

    def __init__(self, issuers: Iterable[TrustedKey], *, audience: str) -> None:
        self._issuers: Mapping[str, TrustedKey] = {key.fingerprint: key for key in issuers}
        self._audience = audience

    def holder(self, token: str, now: float) -> Caller:
        """Whose token it is.

        Raises:
            BadToken: it is not signed by an issuer, not for this audience, or not for now.
        """
        if len(token) > LONGEST:
            raise BadToken("too long")
        parts = token.split(".")
        if len(parts) != 3:
            raise BadToken("not three parts")
        header = _unpacked(parts[0])
        if set(header) != {"alg", "kid", "typ"} or header["typ"] != "JWT":
            raise BadToken("an odd header")
        if header["alg"] != "EdDSA":
            raise BadToken("another algorithm")
        issuer = self._issuers.get(header["kid"]) if isinstance(header["kid"], str) else None
        if issuer is None:
            raise BadToken("an unknown issuer")
        signed = f"{parts[0]}.{parts[1]}".encode()
        if not issuer.signed(signed, _bytes(parts[2])):
            raise BadToken("a wrong signature")
        return self._believed(_unpacked(parts[1]), issuer, now)

    def _believed(self, claims: Mapping[str, Any], issuer: TrustedKey, now: float) -> Caller:
        if not claims.keys() <= _CLAIMS or claims.get("iss") != issuer.fingerprint:
            raise BadToken("an odd claim")
        if claims.get("aud") != self._audience:  # one text: a list would be for several servers
            raise BadToken("another audience")
        begins, ends, made = (_time(claims, name) for name in ("nbf", "exp", "iat"))
        if not begins - SKEW <= now < ends + SKEW:
            raise BadToken("not valid now")
        # By both, and made before now: an issuer who may choose `iat` could else choose its end.
        if not (made - SKEW <= now and 0 < ends - made <= LONGEST_LIFE):
            raise BadToken("valid for too long, or made later")
        if ends - begins > LONGEST_LIFE:
            raise BadToken("valid for too long")
        subject, scope, roles = (claims.get(name) for name in ("sub", "scope", "roles"))
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise BadToken("no subject")
        if not isinstance(scope, str) or not isinstance(roles, list):
            raise BadToken("no scope or roles")
        if not all(isinstance(role, str) for role in roles):
            raise BadToken("an odd role")
        budget = claims.get("budget")
        if budget is not None and (type(budget) is not int or budget < 0):
            raise BadToken("an odd budget")
        # Two issuers may each know a carol.
        name = f"{TOKEN}{issuer.fingerprint.removeprefix('SHA256:')[:8]}:{subject}"
        return Caller(name, tuple(roles), tuple(scope.split()), budget)


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadToken(f"no {name}")
    return float(value)


def _packed(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(part: str) -> bytes:
    """The bytes of a part, and no other spelling of them: trailing bits must be zero."""
    if not _PART.fullmatch(part):
        raise BadToken("not base64url")
    try:
        content = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise BadToken("not base64url") from None
    if _base64(content) != part:
        raise BadToken("not the one spelling of its bytes")
    return content


def _unpacked(part: str) -> dict[str, Any]:
    try:
        value = read_json(_bytes(part).decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadToken("not JSON, or a key twice") from None
    if not isinstance(value, dict):
        raise BadToken("not an object")
    return value
