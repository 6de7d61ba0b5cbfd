"""Keys depend on everything that they are bound to, and envelopes open for nobody else."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import pytest
from secagg_network import a_context

from codex_ray.errors import ProtocolError
from codex_ray.secagg import keys as keys_module
from codex_ray.secagg.keys import (
    KeyPair,
    bind,
    commit,
    derive,
    encode_context,
    join,
    pair_keys,
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
    "bits": replace(CONTEXT, bits=31),
}
ONE, OTHER = b"1" * 32, b"2" * 32
"""Two session digests."""
ADVERTS = {4: b"four", 7: b"seven", 9: b"nine"}


def test_every_context_field_has_its_case():
    assert set(OTHERS) == set(CONTEXT.__dataclass_fields__)


@pytest.mark.parametrize("field", OTHERS)
def test_each_context_field_changes_what_is_bound_to_it(field):
    assert encode_context(CONTEXT) != encode_context(OTHERS[field])
    assert bind(CONTEXT, "session") == bind(replace(CONTEXT), "session")
    assert bind(CONTEXT, "session") != bind(OTHERS[field], "session")


def test_joined_parts_can_be_told_apart():
    parts = [(b"ab",), (b"a", b"b"), (b"", b"ab"), (b"ab", b""), (), (b"",), (1,), ("1",), (1, 1)]
    assert len({join(*some) for some in parts}) == len(parts)


def test_derivation_is_hkdf_sha256():
    # RFC 5869, test case 3: no salt, no info.
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    first, second = derive(b"\x0b" * 22, b"", count=2)
    assert (first + second).hex()[: len(okm)] == okm
    assert derive(b"\x0b" * 22, b"") == (first,)


def test_agreement_is_x25519():
    # RFC 7748, section 6.1.
    alice, bob = (
        KeyPair.of(bytes.fromhex(private))
        for private in (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        )
    )
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.agree(bob.public).hex() == bob.agree(alice.public).hex() == shared


def test_each_derived_key_is_of_one_session_purpose_and_owner():
    made = [self_mask_key(ONE, session, me=me) for session in (ONE, OTHER) for me in (1, 2)]
    for session, low, high in itertools.product((ONE, OTHER), (4, 7), (7, 9)):
        if low < high:
            pair = pair_keys(ONE, session, me=low, peer=high, adverts=ADVERTS)
            made += [pair.mask, pair.outward, pair.inward]
    made += [
        commit(ONE, session, purpose=purpose, me=me)
        for session in (ONE, OTHER)
        for purpose in ("seed", "escrow")
        for me in (1, 2)
    ]
    assert len(set(made)) == len(made) == 4 + 3 * 6 + 8


def test_both_ends_of_a_pair_derive_the_same_keys():
    ours, theirs = KeyPair.fresh(), KeyPair.fresh()
    secret = ours.agree(theirs.public)
    assert secret == theirs.agree(ours.public)
    up = pair_keys(secret, ONE, me=4, peer=7, adverts=ADVERTS)
    down = pair_keys(secret, ONE, me=7, peer=4, adverts=ADVERTS)
    assert (up.mask, up.outward, up.inward) == (down.mask, down.inward, down.outward)


@pytest.mark.parametrize("whose", [4, 7])
def test_another_advertisement_of_either_end_is_another_pair(whose):
    before = pair_keys(ONE, ONE, me=4, peer=7, adverts=ADVERTS)
    after = pair_keys(ONE, ONE, me=4, peer=7, adverts=ADVERTS | {whose: b"again"})
    assert not {before.mask, before.outward, before.inward} & {
        after.mask,
        after.outward,
        after.inward,
    }


def test_advertisements_of_others_do_not_matter():
    assert pair_keys(ONE, ONE, me=4, peer=7, adverts=ADVERTS) == pair_keys(
        ONE, ONE, me=4, peer=7, adverts=ADVERTS | {9: b"again"}
    )


SEALED = seal(ONE, b"shares", ONE, sender=1, receiver=2)
NOT_AS_SENT = {
    "the first bit flipped": (ONE, bytes([SEALED[0] ^ 1]) + SEALED[1:], ONE, 1, 2),
    "the last bit flipped": (ONE, SEALED[:-1] + bytes([SEALED[-1] ^ 128]), ONE, 1, 2),
    "cut": (ONE, SEALED[:-1], ONE, 1, 2),
    "nothing": (ONE, b"", ONE, 1, 2),
    "another session": (ONE, SEALED, OTHER, 1, 2),
    "the other direction": (ONE, SEALED, ONE, 2, 1),
    "another sender": (ONE, SEALED, ONE, 3, 2),
    "another receiver": (ONE, SEALED, ONE, 1, 3),
    "an escrow": (ONE, SEALED, ONE, 1, 1),
    "another key": (OTHER, SEALED, ONE, 1, 2),
}


def test_a_seal_opens_as_it_was_sent():
    assert unseal(ONE, SEALED, ONE, sender=1, receiver=2) == b"shares"


@pytest.mark.parametrize("case", NOT_AS_SENT)
def test_a_seal_does_not_open_otherwise(case):
    key, sealed, session, sender, receiver = NOT_AS_SENT[case]
    with pytest.raises(ProtocolError, match=f"client {sender} sealed .* {receiver} does not open"):
        unseal(key, sealed, session, sender=sender, receiver=receiver)


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short", b""])
def test_low_order_points_and_no_points_are_refused(public):
    with pytest.raises(ProtocolError, match="cannot be used"):
        KeyPair.fresh().agree(public)


def test_a_key_is_usable_if_and_only_if_no_agreement_refuses_it():
    prime, pair = 2**255 - 19, KeyPair.fresh()
    numbers = {*range(20), *(prime - near for near in range(20)), *keys_module._LOW_ORDER}
    numbers |= {number + prime for number in numbers} | {2**254, 9 * 2**250}
    refused = set()
    for number in numbers:
        for top in (0, 1 << 255):
            public = (number % 2**255 + top).to_bytes(32, "little")
            try:
                pair.agree(public)
            except ProtocolError:
                refused.add(number % 2**255 % prime)
                assert not keys_module.usable(public)
            else:
                assert keys_module.usable(public)
    assert refused == keys_module._LOW_ORDER and len(refused) == 5
    assert not any(map(keys_module.usable, (b"", b"short", bytes(33), b"\x09" + bytes(32))))


def test_a_key_pair_gives_its_private_half_to_nobody():
    private = bytes(range(32))
    pair = KeyPair.of(private)
    assert KeyPair.of(private) == pair != KeyPair.fresh()
    assert private.hex() not in repr(pair) and repr(private) not in repr(pair)
    assert repr(pair) == f"KeyPair(public={pair.public!r})"
    with pytest.raises(TypeError):
        pickle.dumps(pair)


def test_derived_keys_show_nothing():
    pair = pair_keys(ONE, ONE, me=4, peer=7, adverts=ADVERTS)
    assert repr(pair) == "PairKeys()"
