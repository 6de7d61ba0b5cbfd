"""The key that signs certificates: made once, kept private, and its public half handed out.

A certificate is worth what the way is worth on which its reader came by the public key. So readers
keep that file themselves (`--trust`), and the key that comes with a run is never used to check it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from codex_ray.errors import InputError

FOLDER_VARIABLE: Final = "CODEX_RAY_KEYS"
PRIVATE_NAME: Final = "signing.pem"
PUBLIC_NAME: Final = "signing.pub.pem"


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key pair that signs certificates."""

    private: Ed25519PrivateKey = field(repr=False, compare=False)

    @property
    def public(self) -> TrustedKey:
        """Its public half."""
        return TrustedKey(self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature [64] of `message` (RFC 8032): the same on every call."""
        return self.private.sign(message)


@dataclass(frozen=True)
class TrustedKey:
    """A public key [32] that somebody has decided to believe."""

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """A short name of the key that no other has: SHA-256 of its 32 bytes, as ssh writes it."""
        named = base64.b64encode(hashlib.sha256(self.raw).digest()).decode().rstrip("=")
        return f"SHA256:{named}"

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this key signed `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def key_folder() -> Path:
    """Where keys are kept: $CODEX_RAY_KEYS, or .config/codex_ray in the home directory."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".config" / "codex_ray"


def make_keys(folder: Path) -> tuple[SigningKey, Path]:
    """A new key, kept in `folder` for its owner alone, and the public file to hand out.

    Raises:
        InputError: there is a key already, or the folder is open to others or cannot be written.
    """
    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    for file in (private, public):
        if file.exists() or file.is_symlink():
            raise InputError(
                f"{file}: there is a key already, and what it signed needs it: choose another "
                "--out, or move it away"
            )
    key = SigningKey(Ed25519PrivateKey.generate())
    kept = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(folder)
        _create(private, kept, mode=0o600)
        _create(public, shown, mode=0o644)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return key, public


def read_signing_key(folder: Path) -> SigningKey | None:
    """The key that is kept in `folder`; None if there is none.

    Raises:
        InputError: others may read it, or it is no Ed25519 key.
    """
    file = folder / PRIVATE_NAME
    try:
        content = file.read_bytes()
        open_to = file.stat().st_mode & 0o077
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    if open_to:
        raise InputError(f"{file}: others may read the private key: chmod 600 {file}")
    _check_folder(folder)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{file}: is no unencrypted private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{file}: is no Ed25519 key: make one with codex-ray keys init")
    return SigningKey(key)


def read_trusted_key(file: Path) -> TrustedKey:
    """The public key in a PEM file that its reader has kept.

    Raises:
        InputError: there is no such file, or no Ed25519 public key in it.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    if b"PRIVATE KEY" in content:
        raise InputError(
            f"{file}: is a private key: give the public one ({PUBLIC_NAME}), and keep this one to "
            "its owner"
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{file}: is no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{file}: is no Ed25519 public key")
    return TrustedKey(key.public_bytes_raw())


def _check_folder(folder: Path) -> None:
    if folder.stat().st_mode & 0o077:
        raise InputError(f"{folder}: is open to others, and holds a private key: chmod 700 it")


def _create(file: Path, content: bytes, *, mode: int) -> None:
    """Writes a new file that never existed with any other mode."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(opened, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
