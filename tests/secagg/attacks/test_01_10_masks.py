"""Attacks 1 and 10: a mask that can be guessed, and a mask that leaves a residue out.

Three clients, the last of which is a spy: once all survive, one mask is left on the victim's
summand, the one that it shares with the other honest client.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import lying_server as server_module
import numpy as np
import pytest
from lying_server import CONTEXT, LyingServer, looks_uniform
from secagg_network import a_context

from codex_ray.secagg import client as client_module
from codex_ray.secagg.keys import PairKeys
from codex_ray.secagg.prg import CHUNK_BYTES, apply_mask, apply_masks
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import reduce as reduce_words

THREE = SecAgg(assumed_dropout=0.0)
MEMBERS, VICTIM, SPY = (0, 1, 2), 0, 2
FOLDED_BITS = 12
"""Published code folds seeds to 16, 28 and 32 bits: fewer do as well to show the search."""


def with_one_mask_left(context=CONTEXT, parts=None):
    """The server after a session that all survived, and the victim's words with one mask on."""
    server = LyingServer(THREE, MEMBERS, context=context, parts=parts, spies={SPY})
    assert server.finish().members == MEMBERS
    return server, server.bared(VICTIM)


# Attack 1: a search for the seed.


def folded(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "little")).digest()


def search(words) -> bytes | None:
    """The folded seed that leaves a vector of small numbers, if there is one."""
    few = words[:16]
    for number in range(1 << FOLDED_BITS):
        left = few.copy()
        apply_mask(left, folded(number), negative=True)
        if int(left.max()) < 50:
            return folded(number)
    return None


def test_no_folded_seed_opens_a_mask():
    server, words = with_one_mask_left()
    assert looks_uniform(words) and search(words) is None and not server.reads(VICTIM)


def test_mutation_folded_seeds_are_searched(monkeypatch):
    genuine = client_module.pair_keys

    def pair_keys(*args, **kwargs) -> PairKeys:
        keys = genuine(*args, **kwargs)
        return replace(keys, mask=folded(int.from_bytes(keys.mask, "little") % (1 << FOLDED_BITS)))

    monkeypatch.setattr(client_module, "pair_keys", pair_keys)
    server, words = with_one_mask_left()
    seed = search(words)
    assert seed is not None
    apply_mask(words, seed, negative=True)
    np.testing.assert_array_equal(words, server.parts[VICTIM])


# Attack 10: a residue that is never drawn. The victim's summand is the same in all coordinates.

DRAWS, SECRET = 1 << 21, 12_345
"""2^5 draws of each of 2^16 residues: one is missing by chance with probability 2^16 e^-32."""


def missing(bits: int):
    """Which residues modulo 2^16 never occur in the low half of a summand with one mask left."""
    context = replace(a_context(DRAWS), bits=bits)
    kind = np.uint16 if bits == 16 else np.uint32
    parts = {one: np.full(DRAWS, SECRET, dtype=kind) for one in MEMBERS}
    _, words = with_one_mask_left(context, parts)
    return np.flatnonzero(np.bincount(words & 0xFFFF, minlength=1 << 16) == 0).tolist(), words


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_every_residue_occurs(bits):
    gone, words = missing(bits)
    assert not gone
    tops = np.bincount(words >> (bits - 4), minlength=16)
    assert tops.size == 16
    # 16 counts of a binomial: eight standard deviations.
    assert np.abs(tops - DRAWS / 16).max() < 8 * np.sqrt(DRAWS / 16)


def test_mutation_a_residue_that_is_never_drawn_shows_the_summand(monkeypatch):
    """numpy's randint(0, M - 1) leaves M - 1 out: what never occurs is the summand minus one."""

    def biased(words, masks):
        for key, negative in masks:
            mask = np.zeros_like(words)
            apply_masks(mask, [(key, False)])
            mask[mask == 0xFFFF] = 0
            words += np.negative(mask) if negative else mask

    for module in (client_module, server_module):
        monkeypatch.setattr(module, "apply_masks", biased)
    monkeypatch.setattr("codex_ray.secagg.unmask.apply_masks", biased)
    gone, _ = missing(16)
    # The victim has the lower id, and adds.
    assert gone == [(SECRET - 1) % (1 << 16)]


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_a_mask_has_no_seam(bits):
    """The keystream is made in chunks: the words on either side of a seam are no more alike."""
    step = CHUNK_BYTES // (2 if bits == 16 else 4)
    words = np.zeros(4 * step, dtype=np.uint16 if bits == 16 else np.uint32)
    apply_mask(words, bytes(32))
    reduce_words(words, bits)
    assert not any(np.array_equal(words[:step], words[at : at + step]) for at in (step, 2 * step))
