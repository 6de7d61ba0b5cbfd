"""One tree of named random streams, keyed by AES; secrets come from the operating system.

Every use of randomness has a name, a path such as ("noise", round, client), and its own 256-bit
key, HKDF-SHA256(root, path). Two names never share a stream, so two clients never share noise,
however they are spread over processes, and a retried or resumed round draws what the first try
drew.

Two roots, because two questions must not mix:

* `public` streams (how data is split, initial weights, drawn dropouts, the graph) need to be
  the same everywhere, and no secrecy.
* `secret` streams (noise, batches, cohorts) must be unknown to whoever must not learn from the
result.
  With a seed they are derived from it: the run can be replayed, and is therefore a simulation.
  Without a seed every process draws its own root from the operating system, and never writes it
  down.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ROOT_BYTES = 32
_ZEROS = memoryview(bytes(1 << 16))  # encrypted they are keystream; so many stay in the cache
_NUMBER = b"i" + (16).to_bytes(4, "little")
Name = str | int | bytes


def fresh_secret(count: int = ROOT_BYTES) -> bytes:
    """`count` bytes from the operating system's generator: the only source of keys and secrets."""
    return os.urandom(count)


def _encode(path: tuple[Name, ...]) -> bytes:
    """The path as bytes, injective: each part carries its type and its length."""
    parts = []
    for name in path:
        if isinstance(name, str):
            parts.append(_word(name))
        elif isinstance(name, bytes):
            parts.append(b"b" + len(name).to_bytes(4, "little") + name)
        else:
            parts.append(_NUMBER + int(name).to_bytes(16, "little", signed=True))
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _word(name: str) -> bytes:
    """A part that is text; there are few of them, and each client's streams bear the same."""
    raw = name.encode()
    return b"s" + len(raw).to_bytes(4, "little") + raw


class Stream:
    """An AES-256-CTR keystream read as bytes, uniforms, normals and permutations.

    Draws are consumed in order, so a stream is read by one function for one purpose.
    """

    def __init__(self, key: bytes) -> None:
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes of the keystream."""
        return self._keystream.update(bytes(count))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        return np.frombuffer(self.bytes(8 * count), dtype="<u8")

    def fill(self, words: npt.NDArray[np.uint64]) -> None:
        """Puts the next words of the keystream into `words`, which is contiguous."""
        raw = words.view(np.uint8)
        for at in range(0, len(raw), len(_ZEROS)):
            piece = raw[at : at + len(_ZEROS)].data
            self._keystream.update_into(_ZEROS[: len(piece)], piece)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` uniforms on the open interval (0, 1): odd multiples of 2^-53."""
        return ((self.words(count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """`count` standard normals by Box-Muller (1958) from pairs of uniforms, in float64.

        Their tails end at 8.6 standard deviations; the floating-point attacks of Mironov (2012)
        are not closed by it (see "what is not covered" in the privacy statement).
        """
        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers below `count` in uniform order (64-bit keys tie with 2^-64 a pair)."""
        return np.argsort(self.words(count), kind="stable").astype(np.int64)

    def numpy(self) -> np.random.Generator:
        """A numpy generator keyed by the next 16 bytes, for draws that protect nobody."""
        return np.random.Generator(
            np.random.Philox(key=np.frombuffer(self.bytes(16), dtype="<u8").copy())
        )


@dataclass(frozen=True)
class SeedTree:
    """A root key from which streams are named; the root never shows in a log, repr or result."""

    root: bytes = field(repr=False)

    def key(self, *path: Name) -> bytes:
        """The 32-byte key of `path` (HKDF-Expand, RFC 5869)."""
        return HKDFExpand(hashes.SHA256(), 32, b"codex_ray/" + _encode(path)).derive(self.root)

    def stream(self, *path: Name) -> Stream:
        """The stream that bears this name: the same path gives the same stream."""
        return Stream(self.key(*path))

    def child(self, *path: Name) -> SeedTree:
        """The subtree under `path`."""
        return SeedTree(self.key(*path))


@dataclass(frozen=True)
class Randomness:
    """The public and the secret tree of one process of one run."""

    public: SeedTree
    secret: SeedTree

    @classmethod
    def of(cls, seed: int | None) -> Randomness:
        """The trees of `seed`, or, for None, a secret root from the operating system.

        The public tree of an unseeded run is that of seed 0: public draws need no secrecy, and a
        resumed run must find the data split in the same way.
        """
        public = hashlib.sha256(f"codex_ray public {seed or 0}".encode()).digest()
        if seed is None:
            return cls(SeedTree(public), SeedTree(fresh_secret()))
        return cls(
            SeedTree(public), SeedTree(hashlib.sha256(f"codex_ray secret {seed}".encode()).digest())
        )
