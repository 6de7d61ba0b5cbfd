"""Masks are AES-256-CTR words: known answers, both backends alike, exact sums, each key bit counts.

What is expected is computed here from AES blocks of single counters, not from a stream.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from codex_ray.secagg import prg
from codex_ray.secagg.prg import CHUNK_BYTES, TOGETHER, apply_mask, apply_masks, keystream

BACKENDS: list[prg.Backend] = ["ctr", "gcm"]
KINDS = [np.uint16, np.uint32]
RAGGED_BYTES = [
    4,
    12,
    20,
    4096,
    CHUNK_BYTES - 4,
    CHUNK_BYTES,
    CHUNK_BYTES + 4,
    3 * CHUNK_BYTES + 68,
]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """Each backend in turn, whichever is faster here."""
    monkeypatch.setattr(prg, "fastest_backend", lambda: request.param)
    return request.param


def blocks(key: bytes, size: int) -> bytes:
    """The first `size` bytes of the mask of `key`: the AES blocks of counters 2, 3, 4, ..."""
    counters = b"".join(number.to_bytes(16, "big") for number in range(2, 2 + -(-size // 16)))
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counters)[:size]


def mask_of(key: bytes, kind: type, count: int) -> np.ndarray:
    return np.frombuffer(blocks(key, count * np.dtype(kind).itemsize), dtype=kind)


def uniform(kind: type, count: int) -> np.ndarray:
    return np.frombuffer(os.urandom(count * np.dtype(kind).itemsize), dtype=kind).copy()


def a_key(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


# The AES-256 cases of McGrew and Viega, "The Galois/Counter Mode of Operation" (2005), that use the
# all-zero IV are 13 and 14: their first keystream block is that of counter 00000002.
GCM_CASE_14 = "cea7403d4d606b6e074ec5d3baf39d18"


@pytest.mark.parametrize("kind", KINDS)
def test_known_answer_of_gcm(backend, kind):
    words = np.zeros(16 // np.dtype(kind).itemsize, dtype=kind)
    apply_mask(words, bytes(32))
    assert words.astype(words.dtype.newbyteorder("<")).tobytes().hex() == GCM_CASE_14


def test_known_answer_of_aes_256():
    # FIPS 197, appendix C.3: the block cipher that `blocks` is made of.
    key, plain = bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff")
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(plain)
    assert cipher.hex() == "8ea2b7ca516745bfeafc49904b496089"


@pytest.mark.parametrize("size", [*RAGGED_BYTES, 1, 15, 17])
def test_both_backends_give_the_blocks_from_counter_two(size):
    key = a_key(size)
    for backend in BACKENDS:
        stream = keystream(key, backend)
        cut = size // 3
        assert stream.update(bytes(cut)) + stream.update(bytes(size - cut)) == blocks(key, size)


def test_the_counter_carries_beyond_one_byte_of_it():
    key, size = a_key(0), 16 * 70_000
    for backend in BACKENDS:
        assert keystream(key, backend).update(bytes(size)) == blocks(key, size)


def test_one_of_the_two_backends_is_chosen_once():
    assert prg.fastest_backend() in BACKENDS
    assert prg.fastest_backend() is prg.fastest_backend()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", RAGGED_BYTES)
def test_a_mask_is_added_word_by_word_modulo_the_word(backend, kind, size):
    count = size // np.dtype(kind).itemsize
    before, key = uniform(kind, count), a_key(size)
    words = before.copy()
    apply_mask(words, key)
    np.testing.assert_array_equal(words, before + mask_of(key, kind, count))
    apply_mask(words, key, negative=True)
    np.testing.assert_array_equal(words, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [20, CHUNK_BYTES - 4, CHUNK_BYTES + 4, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("many", [0, 1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER + 1])
def test_many_masks_are_the_naive_sum_in_any_order(kind, size, many):
    count = size // np.dtype(kind).itemsize
    before = uniform(kind, count)
    masks = [(a_key(number), number % 3 == 0) for number in range(many)]
    want = before.copy()
    for key, negative in masks:
        want += -mask_of(key, kind, count) if negative else mask_of(key, kind, count)
    for order in (masks, masks[::-1], sorted(masks)):
        words = before.copy()
        apply_masks(words, iter(order))
        np.testing.assert_array_equal(words, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_neighbours_of_a_masked_piece_are_left_alone(backend, kind):
    whole = uniform(kind, CHUNK_BYTES)
    before = whole.copy()
    apply_mask(whole[7:-9], a_key(1))
    np.testing.assert_array_equal(whole[:7], before[:7])
    np.testing.assert_array_equal(whole[-9:], before[-9:])
    np.testing.assert_array_equal(
        whole[7:-9], before[7:-9] + mask_of(a_key(1), kind, whole.size - 16)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_vector_takes_an_empty_mask(backend, kind):
    words = np.zeros(0, dtype=kind)
    apply_masks(words, [(bytes(32), False), (a_key(1), True)])
    assert words.size == 0


def test_every_key_bit_changes_the_mask(backend):
    masks = set()
    for bit in range(-1, 256):
        key = (1 << bit if bit >= 0 else 0).to_bytes(32, "little")
        words = np.zeros(4, dtype=np.uint32)
        apply_mask(words, key)
        masks.add(words.tobytes())
    assert len(masks) == 257


def test_every_residue_is_reached():
    """None is left out, the largest included; with 2^21 draws of 2^16 that is certain enough."""
    words = np.zeros(1 << 21, dtype=np.uint16)
    apply_mask(words, a_key(2))
    counts = np.bincount(words, minlength=1 << 16)
    assert counts.min() > 0 and counts.max() < 32 + 8 * np.sqrt(32)
