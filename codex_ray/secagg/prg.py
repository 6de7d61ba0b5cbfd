"""A mask is the AES-256 keystream of a key used once, added to a vector or taken from it in place.

By definition the stream is AES-256-CTR whose counter starts at 12 zero bytes || 00000002; words are
little-endian. By NIST SP 800-38D that is also the keystream of AES-256-GCM under the all-zero
nonce. Which of the two is faster depends on the processor and on OpenSSL (by a factor of two, and
either may win), so the first mask of a process measures both and keeps the faster: the bytes are
the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import (
    AEADEncryptionContext,
    Cipher,
    CipherContext,
    algorithms,
    modes,
)

from codex_ray.types import Residues

CHUNK_BYTES = 1 << 17
"""A chunk of the vector and its keystream stay in the second-level cache."""

TOGETHER = 32
"""Keystreams that are open at once, so that a chunk is fetched once for all of them."""

Backend: TypeAlias = Literal["gcm", "ctr"]
Mask: TypeAlias = tuple[bytes, bool]
"""A key, and whether its mask is subtracted."""

_GCM = modes.GCM(bytes(12))
_CTR = modes.CTR(bytes(12) + (2).to_bytes(4, "big"))
_ZEROS = memoryview(bytes(CHUNK_BYTES))
_TRIAL_BYTES = 1 << 20


def keystream(key: bytes, backend: Backend) -> CipherContext | AEADEncryptionContext:
    """The stream of `key`: encrypts zeros to its next bytes."""
    if backend == "gcm":
        return Cipher(algorithms.AES(key), _GCM).encryptor()
    return Cipher(algorithms.AES(key), _CTR).encryptor()


@lru_cache(maxsize=1)
def fastest_backend() -> Backend:
    """The faster of the two on this processor, by the CPU time of a few megabytes."""
    backends: tuple[Backend, ...] = ("ctr", "gcm")
    return min(backends, key=lambda backend: min(_trial(backend) for _ in range(3)))


def _trial(backend: Backend) -> float:
    stream, out = keystream(bytes(32), backend), bytearray(CHUNK_BYTES)
    began = time.thread_time()
    for _ in range(_TRIAL_BYTES // CHUNK_BYTES):
        stream.update_into(_ZEROS, out)
    return time.thread_time() - began


def apply_mask(words: Residues, key: bytes, *, negative: bool = False) -> None:
    """Add the mask of `key` to `words` [d] modulo its word size in place, or subtract it.

    Every key masks one vector: two vectors under one key would give away their difference.
    """
    apply_masks(words, [(key, negative)])


def apply_masks(words: Residues, masks: Iterable[Mask]) -> None:
    """Add or subtract each of `masks` to `words` [d] in place; their order makes no difference."""
    backend = fastest_backend()
    size = words.dtype.itemsize
    step = CHUNK_BYTES // size
    stream = memoryview(bytearray(min(CHUNK_BYTES, words.nbytes)))
    mask = np.frombuffer(stream, dtype=f"<u{size}")
    pending = iter(masks)
    while batch := list(islice(pending, TOGETHER)):
        opened = [
            (keystream(key, backend).update_into, np.subtract if negative else np.add)
            for key, negative in batch
        ]
        for start in range(0, words.size, step):
            piece = words[start : start + step]
            zeros, out = _ZEROS[: piece.nbytes], stream[: piece.nbytes]
            values = mask[: piece.size]
            for fill, change in opened:
                fill(zeros, out)
                change(piece, values, out=piece)
