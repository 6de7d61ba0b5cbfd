"""Keys depend on everything that they are bound to, and envelopes open for nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from secagg_network import a_context

from codex_ray.errors import ProtocolError
from codex_ray.secagg.keys import (
    KeyPair,
    channel_key,
    commit,
    derive,
    encode_context,
    pair_mask_key,
    seal,
    self_mask_key,
    unseal,
)

CONTEXT = a_context(5)
OTHERS = {
    "run": replace(CONTEXT, run=b"s" * 16),
    "round": replace(CONTEXT, round=1),
    "attempt": replace(CONTEXT, attempt=1),
    "model_digest": replace(CONTEXT, model_digest=b"n" * 32),
    "dimension": replace(CONTEXT, dimension=6),
}


def test_every_context_field_has_its_case():
    assert set(OTHERS) == set(CONTEXT.__dataclass_fields__)


@pytest.mark.parametrize("field", OTHERS)
def test_each_context_field_changes_every_derived_value(field):
    ours, theirs, other = KeyPair.fresh(), KeyPair.fresh(), OTHERS[field]
    for make in (
        lambda c: derive(bytes(32), c, purpose="mask", first=1, second=2),
        lambda c: pair_mask_key(ours, theirs.public, c, me=1, peer=2),
        lambda c: channel_key(ours, theirs.public, c, directions=((1, 2),)),
        lambda c: self_mask_key(bytes(32), c, me=1),
        lambda c: commit(bytes(32), c, me=1),
        encode_context,
    ):
        assert make(CONTEXT) == make(CONTEXT)
        assert make(CONTEXT) != make(other)


def test_purpose_pair_and_direction_change_the_key():
    derived = {
        derive(bytes(32), CONTEXT, purpose=purpose, first=first, second=second)
        for purpose in ("mask", "channel", "self mask")
        for first, second in ((1, 2), (2, 1), (1, 3), (12, 1))
    }
    assert len(derived) == 12


def test_both_sides_derive_the_same_keys():
    ours, theirs = KeyPair.fresh(), KeyPair.fresh()
    assert pair_mask_key(ours, theirs.public, CONTEXT, me=4, peer=7) == pair_mask_key(
        theirs, ours.public, CONTEXT, me=7, peer=4
    )
    ways = ((4, 7), (7, 4))
    there, back = channel_key(ours, theirs.public, CONTEXT, directions=ways)
    assert (there, back) == channel_key(theirs, ours.public, CONTEXT, directions=ways)
    assert there != back


def test_a_seal_opens_only_as_it_was_sent():
    key = bytes(32)
    sealed = seal(key, b"shares", CONTEXT, sender=1, receiver=2)
    assert unseal(key, sealed, CONTEXT, sender=1, receiver=2) == b"shares"
    tampered = bytes([sealed[0] ^ 1]) + sealed[1:]
    for bad in (
        lambda: unseal(key, tampered, CONTEXT, sender=1, receiver=2),
        lambda: unseal(key, b"", CONTEXT, sender=1, receiver=2),
        lambda: unseal(key, sealed, OTHERS["attempt"], sender=1, receiver=2),
        lambda: unseal(key, sealed, CONTEXT, sender=2, receiver=1),
        lambda: unseal(key, sealed, CONTEXT, sender=3, receiver=2),
        lambda: unseal(key, sealed, CONTEXT, sender=1, receiver=3),
        lambda: unseal(bytes([1]) * 32, sealed, CONTEXT, sender=1, receiver=2),
    ):
        with pytest.raises(ProtocolError, match="do not open"):
            bad()


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_low_order_points_and_no_points_are_refused(public):
    with pytest.raises(ProtocolError, match="cannot be used"):
        KeyPair.fresh().agree(public)


def test_a_key_pair_shows_no_private_key():
    pair = KeyPair.fresh()
    assert "private" not in repr(pair) and pair.private.hex() not in repr(pair)
    assert KeyPair.of(pair.private) == pair
