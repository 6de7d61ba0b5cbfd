"""How fast this machine does the primitives that secure aggregation is made of, in CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from codex_ray.randomness import fresh_secret
from codex_ray.secagg import shamir
from codex_ray.secagg.cost import Rates
from codex_ray.secagg.keys import SECRET_BYTES, KeyPair, pair_keys, seal
from codex_ray.secagg.prg import Backend, keystream
from codex_ray.types import Residues

BUDGET = 0.15
"""CPU seconds that each primitive is measured for."""

REPEATS = 3
"""The best of so many measurements counts: whatever else runs only ever adds."""

FLOOR_CHUNKS = (1 << 16, 1 << 17, 1 << 18, 1 << 19)


def seconds_each(work: Callable[[], object], *, budget: float = BUDGET) -> float:
    """CPU seconds of one call, the least over a few runs that fill the budget together."""
    work()
    began = time.process_time()
    work()
    once = max(1e-7, time.process_time() - began)
    calls = max(1, int(budget / REPEATS / once))
    best = float("inf")
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(calls):
            work()
        best = min(best, (time.process_time() - began) / calls)
    return best


def fused_floor(dimension: int) -> float:
    """CPU seconds by the byte of keystream and addition together, at their fastest.

    The loop has nothing in it but the cipher and the addition, and the best chunk and mode of
    operation count: what masking code can at most attain.
    """
    words = np.zeros(dimension, dtype=np.uint32)
    backends: tuple[Backend, ...] = ("ctr", "gcm")
    best = min(
        seconds_each(lambda chunk=chunk, backend=backend: _mask(words, backend, chunk=chunk))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
        for chunk in FLOOR_CHUNKS
        for backend in backends
    )
    return best / words.nbytes


def _mask(words: Residues, backend: Backend, *, chunk: int) -> None:
    stream = keystream(bytes(SECRET_BYTES), backend)
    zeros, out = memoryview(bytes(chunk)), memoryview(bytearray(chunk))
    mask = np.frombuffer(out, dtype=np.uint32)
    for start in range(0, words.size, chunk // 4):
        piece = words[start : start + chunk // 4]
        stream.update_into(zeros[: piece.nbytes], out[: piece.nbytes])
        np.add(piece, mask[: piece.size], out=piece)


def measure_rates(dimension: int, *, threshold: int, holders: int) -> Rates:
    """The rates on this machine, for vectors of that length and sharings of that size."""
    pair, public = KeyPair.fresh(), KeyPair.fresh().public
    signer, statement = Ed25519PrivateKey.generate(), fresh_secret(150)
    verifier, signature = signer.public_key(), signer.sign(statement)
    secret, session = fresh_secret(SECRET_BYTES), fresh_secret(SECRET_BYTES)
    shares = dict(enumerate(shamir.split(secret, holders=holders, threshold=threshold), start=1))
    total, summand = np.zeros((2, dimension), dtype=np.uint32)
    adverts = {0: statement, 1: statement}
    plain = bytes(2 * shamir.share_bytes(SECRET_BYTES))
    return Rates(
        agreement=seconds_each(lambda: pair.agree(public))
        + seconds_each(lambda: pair_keys(secret, session, me=0, peer=1, adverts=adverts)),
        key_pair=seconds_each(KeyPair.fresh),
        sign=seconds_each(lambda: signer.sign(statement)),
        verify=seconds_each(lambda: verifier.verify(signature, statement)),
        seal=seconds_each(lambda: seal(secret, plain, session, sender=0, receiver=1)),
        share=seconds_each(lambda: shamir.split(secret, holders=holders, threshold=threshold))
        / holders,
        rebuild=seconds_each(
            lambda: shamir.reconstruct(shares, threshold=threshold, secret_bytes=SECRET_BYTES)
        ),
        mask=fused_floor(dimension),
        add=seconds_each(lambda: np.add(total, summand, out=total)) / total.nbytes,
    )
