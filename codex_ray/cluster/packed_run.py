"""A run directory as text in the log of a job: how it gets from a cluster to whoever submitted it.

The Jobs API is the one door of a cluster that is open to its users, and a log is all that comes out
of it. So a job of its own prints the directory. Ray keeps its logs, for every user of the head to
read; so what is printed is sealed for the one who asked (X25519, HKDF and AES-GCM, after RFC 9180).
"""

from __future__ import annotations

import base64
import io
import sys
import tarfile
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codex_ray.errors import ClusterError, RunDirectoryError

BEGIN: Final = "-----BEGIN CODEX_RAY RUN-----"
END: Final = "-----END CODEX_RAY RUN-----"
LINE: Final = 3 * 1024
"""Bytes in a line of text."""
NONCE: Final = bytes(12)
"""Each key seals one archive, so it needs no other."""


def packed(directory: Path, reader: bytes) -> str:
    """The directory's files as text that only the holder of a private key can read.

    Args:
        directory: of the run.
        reader: the public key [32] of that holder.

    Raises:
        RunDirectoryError: there is no such directory.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"{directory}: there is no run: did its job begin?")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(directory, arcname=".")
    once = X25519PrivateKey.generate()
    shared = once.exchange(X25519PublicKey.from_public_bytes(reader))
    sender = once.public_key().public_bytes_raw()
    sealed = _cipher(shared, sender, reader).encrypt(NONCE, archive.getvalue(), None)
    parts = [sender, *[sealed[i : i + LINE] for i in range(0, len(sealed), LINE)]]
    return "\n".join([BEGIN, *[base64.b64encode(part).decode() for part in parts], END])


def unpack(log: str, directory: Path, key: X25519PrivateKey) -> None:
    """Writes the run that a log holds into `directory`.

    Raises:
        ClusterError: the log is cut short or altered, or sealed for somebody else, or what is in it
            is no run.
    """
    lines = log.splitlines()
    try:
        first, last = lines.index(BEGIN), lines.index(END)
        parts = [base64.b64decode(line, validate=True) for line in lines[first + 1 : last]]
        shared = key.exchange(X25519PublicKey.from_public_bytes(b"".join(parts[:1])))
        cipher = _cipher(shared, parts[0], key.public_key().public_bytes_raw())
        content = cipher.decrypt(NONCE, b"".join(parts[1:]), None)
    except (ValueError, InvalidTag):
        raise ClusterError(
            f"{directory}: the run did not arrive as it was: fetch it again"
        ) from None
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            # Nothing outside of the directory, no devices, no links that lead out of it.
            tar.extractall(directory, filter="data")
    except tarfile.TarError as error:
        raise ClusterError(f"{directory}: what came is no run: {error}") from None


def _cipher(shared: bytes, sender: bytes, reader: bytes) -> AESGCM:
    """The cipher of one archive, bound to who sealed it and for whom."""
    info = b"codex_ray run" + sender + reader
    return AESGCM(HKDF(SHA256(), length=32, salt=None, info=info).derive(shared))


if __name__ == "__main__":
    print(packed(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])))
