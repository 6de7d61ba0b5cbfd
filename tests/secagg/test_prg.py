"""Masks are AES-256-CTR words: known answers, exact inverses, and every key bit counts."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from codex_ray.secagg.prg import CHUNK_WORDS, apply_mask

RAGGED = [1, 3, 4, 1000, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS + 17]


def ctr_words(key: bytes, count: int) -> np.ndarray:
    counter = bytes(12) + (2).to_bytes(4, "big")
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(4 * count))
    return np.frombuffer(stream, dtype="<u4")


@pytest.mark.parametrize("count", RAGGED)
def test_a_mask_is_the_ctr_keystream_from_counter_two(count):
    key = os.urandom(32)
    words = np.zeros(count, dtype=np.uint32)
    apply_mask(words, key)
    np.testing.assert_array_equal(words, ctr_words(key, count))


def test_known_answer():
    # GCM test case 14 (McGrew and Viega 2005): zero key, IV and block give this ciphertext.
    words = np.zeros(4, dtype=np.uint32)
    apply_mask(words, bytes(32))
    assert words.astype("<u4").tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


@pytest.mark.parametrize("count", RAGGED)
def test_subtracting_a_mask_undoes_adding_it(count):
    key = os.urandom(32)
    before = np.frombuffer(os.urandom(4 * count), dtype=np.uint32)
    words = before.copy()
    apply_mask(words, key)
    assert not np.array_equal(words, before)
    apply_mask(words, key, negative=True)
    np.testing.assert_array_equal(words, before)


def test_an_empty_vector_takes_an_empty_mask():
    apply_mask(np.zeros(0, dtype=np.uint32), bytes(32))


def test_every_key_bit_changes_the_mask():
    masks = set()
    for bit in range(-1, 256):
        key = (1 << bit if bit >= 0 else 0).to_bytes(32, "little")
        words = np.zeros(4, dtype=np.uint32)
        apply_mask(words, key)
        masks.add(words.tobytes())
    assert len(masks) == 257
