"""Keyed pseudonyms: HMAC-SHA256 of an identifier, the same for the same key, useless without it.

A pseudonymised record is still about a person: whoever has the key can test any name against it.
So the key stays with the hospital, in a file for its owner alone, and no table of who is who is
ever written. A new key gives new pseudonyms, which nobody can link to the old ones without both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from codex_ray.errors import InputError
from codex_ray.randomness import fresh_secret
from codex_ray.records.private_files import create_file, read_private

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
"""128 of the 256 bits: two of 2^40 identifiers meet with probability 2^-49."""


@dataclass(frozen=True)
class PseudonymKey:
    """A secret of 32 bytes that turns identifiers into pseudonyms."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise InputError(f"a key for pseudonyms has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def fresh(cls) -> PseudonymKey:
        """A key from the operating system, that nobody else has."""
        return cls(fresh_secret(KEY_BYTES))

    @property
    def id(self) -> str:
        """What tells the key from others and nothing about it."""
        return self._of(b"codex_ray key id", b"")[:8].hex()

    def pseudonym(self, domain: str, value: str) -> str:
        """The pseudonym of `value`: 32 hex digits; equal only for equal domains and values."""
        return self._of(b"codex_ray pseudonym", domain.encode(), value.encode())[
            :PSEUDONYM_BYTES
        ].hex()

    def pseudonyms(self, domain: str, values: pa.Array) -> pa.Array:
        """The pseudonym of every value [n], null where there is none."""
        coded = values.dictionary_encode()
        named = [self.pseudonym(domain, value) for value in coded.dictionary.to_pylist()]
        return pa.array(named, pa.string()).take(coded.indices)

    def _of(self, *parts: bytes) -> bytes:
        """HMAC-SHA256 over the parts, each behind its length, so that none runs into the next."""
        code = HMAC(self.secret, SHA256())
        for part in parts:
            code.update(len(part).to_bytes(8, "big") + part)
        return code.finalize()


def make_key(file: Path) -> PseudonymKey:
    """A new key in a new file that only its owner can read.

    Raises:
        InputError: there is such a file, or it cannot be written.
    """
    key = PseudonymKey.fresh()
    create_file(file, key.secret.hex().encode() + b"\n", mode=0o600)
    return key


def read_key(file: Path) -> PseudonymKey:
    """The key in a file.

    Raises:
        InputError: others may read it, or it holds no key.
    """
    try:
        secret = bytes.fromhex(read_private(file).decode("ascii").strip())
    except ValueError:
        raise InputError(f"{file}: is no key: make one with codex-ray data key {file}") from None
    return PseudonymKey(secret)
