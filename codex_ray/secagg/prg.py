"""A mask is the AES-256 keystream of a key used once, added to a vector or taken from it in place.

The stream is that of GCM under the all-zero nonce, because OpenSSL has the fastest code for it (two
to three times CTR). By NIST SP 800-38D it is AES-256-CTR started at nonce || 00000002, and the
tests hold it to that: another implementation may use CTR and be word-compatible. Words are
little-endian.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from codex_ray.types import Residues

CHUNK_WORDS = 1 << 16
"""256 KB: a chunk stays in the second-level cache between encryption and addition."""

_NONCE = bytes(12)
_ZEROS = memoryview(bytes(4 * CHUNK_WORDS))


def apply_mask(words: Residues, key: bytes, *, negative: bool = False) -> None:
    """Add the mask of `key` to `words` [d] modulo 2^32 in place; subtract it if `negative`.

    Every key masks one vector: two vectors under one key would give away their difference.
    """
    keystream = Cipher(algorithms.AES(key), modes.GCM(_NONCE)).encryptor()
    stream = memoryview(bytearray(4 * min(CHUNK_WORDS, words.size)))
    mask = np.frombuffer(stream, dtype="<u4")
    change = np.subtract if negative else np.add
    for start in range(0, words.size, CHUNK_WORDS):
        piece = words[start : start + CHUNK_WORDS]
        keystream.update_into(_ZEROS[: 4 * piece.size], stream[: 4 * piece.size])
        change(piece, mask[: piece.size], out=piece)
