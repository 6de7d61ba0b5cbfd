"""Documents of a registry that are signed as certificates are: Ed25519 over canonical JSON.

Each kind opens with its own `format`, so that no signature over one is one over another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from codex_ray.records.canonical import canonical, plain, read_json
from codex_ray.records.certificate import Part, Signature
from codex_ray.records.keys import SigningKey, TrustedKey
from codex_ray.records.run_directory import to_json_bytes
from codex_ray.registry.refusals import TamperError

S = TypeVar("S", bound="Signed")


class Signed(Part):
    """A document with a signature over everything in it but the signature."""

    signature: Signature | None = None

    def to_json(self) -> dict[str, Any]:
        """The document as plain data."""
        found = plain(self.model_dump())
        assert isinstance(found, dict)
        return found

    def to_bytes(self) -> bytes:
        """The one byte string that is stored, and under whose SHA-256 others name it."""
        return to_json_bytes(self.to_json())

    @property
    def address(self) -> str:
        """SHA-256 of the stored bytes, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def signed_bytes(self) -> bytes:
        """What the signature is over (RFC 8785)."""
        return canonical({k: v for k, v in self.to_json().items() if k != "signature"})

    def signed_by(self, key: SigningKey) -> Self:
        """The document with this key's signature."""
        value = base64.b64encode(key.sign(self.signed_bytes())).decode()
        signature = Signature(key=key.public.fingerprint, value=value)
        return self.model_copy(update={"signature": signature})

    def is_signed_by(self, key: TrustedKey) -> bool:
        """Whether `key` signed exactly this document, which names it."""
        if self.signature is None or self.signature.key != key.fingerprint:
            return False
        try:
            value = base64.b64decode(self.signature.value, validate=True)
        except binascii.Error:
            return False
        return key.signed(self.signed_bytes(), value)


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
    if not any(found.is_signed_by(key) for key in trusted):
        named = "nobody" if found.signature is None else found.signature.key
        raise TamperError(
            f"{of}: no trusted key signed it as it is (it names {named}): give the public key of "
            "whoever you believe as --trust FILE, and serve nothing else"
        )
    return found
