"""Signed documents of a registry, read: what was stored, laid out as it was, by a trusted key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from codex_ray.records.canonical import read_json
from codex_ray.records.keys import TrustedKey
from codex_ray.records.signed import Signed
from codex_ray.registry.refusals import TamperError

S = TypeVar("S", bound=Signed)


def parsed(kind: type[S], content: bytes, *, trusted: Iterable[TrustedKey], of: str) -> S:
    """The document that the stored bytes hold, which a trusted key signed.

    Args:
        of: what and where it is, for the message.

    Raises:
        TamperError: it is none, or is not laid out as it was written, or nobody trusted signed it.
    """
    try:
        found = kind.model_validate(read_json(content.decode()))
        if found.to_bytes() != content:
            raise ValueError("it is not laid out as it was written")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise TamperError(f"{of}: cannot be read: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise TamperError(f"{of}: cannot be read: {error}") from None
    named = "nobody" if found.signature is None else found.signature.key
    if not any(key.fingerprint == named and found.is_signed_by(key) for key in trusted):
        raise TamperError(
            f"{of}: no trusted key signed it as it is (it names {named}): give the public key of "
            "whoever you believe as --trust FILE, and serve nothing else"
        )
    return found
