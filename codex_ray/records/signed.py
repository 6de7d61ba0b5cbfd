"""Documents with a signature in them: Ed25519 over the canonical bytes (RFC 8785) of all the rest.

Each kind of document opens with its own `format`, so that no signature over one is over another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from codex_ray.records.canonical import canonical, plain
from codex_ray.records.keys import SigningKey, TrustedKey
from codex_ray.records.run_directory import to_json_bytes


class Part(BaseModel):
    """A frozen section, in which nothing unknown is let pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Signature(Part):
    """Who vouches for a document: the name of the key, and 64 bytes in base64."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key: str
    value: str


class Signed(Part):
    """A document with a signature over everything in it but the signature."""

    signature: Signature | None = None

    def to_json(self) -> dict[str, Any]:
        """The document as plain data, as a file holds it."""
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
        """What the signature is over: the canonical form of everything but the signature."""
        return canonical({k: v for k, v in self.to_json().items() if k != "signature"})

    def signed_by(self, key: SigningKey) -> Self:
        """The document with this key's signature."""
        value = base64.b64encode(key.sign(self.signed_bytes())).decode()
        signature = Signature(key=key.public.fingerprint, value=value)
        return self.model_copy(update={"signature": signature})

    def is_signed_by(self, key: TrustedKey) -> bool:
        """Whether `key` signed exactly this document. Whatever key it names does not count."""
        if self.signature is None:
            return False
        try:
            value = base64.b64decode(self.signature.value, validate=True)
        except binascii.Error:
            return False
        return key.signed(self.signed_bytes(), value)

    @property
    def signed_in_words(self) -> str:
        """Whether anybody vouches for it, and the remedy if nobody does."""
        if self.signature is None:
            return "not signed: codex-ray keys init makes a key with which runs are signed"
        return f"signed with Ed25519 by {self.signature.key}"
