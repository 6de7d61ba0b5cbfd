"""An identity signs and agrees, its list can tell clients apart, and shared work shares results."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from codex_ray.errors import ProtocolError
from codex_ray.secagg.identity import (
    SIGNATURE_BYTES,
    Enrolment,
    Identity,
    Membership,
    SharedWork,
    admissible,
    verify,
)
from codex_ray.secagg.keys import KEY_BYTES, KeyPair

ONE, TWO, THREE = (Identity.fresh() for _ in range(3))
LIST = Enrolment({1: ONE.public, 2: TWO.public})


# Identities.


def test_signatures_are_ed25519():
    # RFC 8032, section 7.1, test 2.
    private = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signer = Identity(Ed25519PrivateKey.from_private_bytes(private), KeyPair.fresh())
    assert signer.public[:KEY_BYTES].hex() == (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    )
    assert signer.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_the_public_half_is_both_public_keys():
    assert len(ONE.public) == 2 * KEY_BYTES
    assert ONE.public[:KEY_BYTES] == ONE.signing.public_key().public_bytes_raw()
    assert ONE.public[KEY_BYTES:] == ONE.agreement.public
    assert len({ONE.public, TWO.public, THREE.public}) == 3


def test_an_identity_shows_and_pickles_nothing():
    shown = repr(ONE) + repr(Membership(ONE, LIST))
    for secret in (ONE.signing.private_bytes_raw(), ONE.agreement.key.private_bytes_raw()):
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    assert repr(ONE) == "Identity()"
    for holder in (ONE, ONE.agreement, Membership(ONE, LIST)):
        with pytest.raises(TypeError):
            pickle.dumps(holder)


# The list.


def test_a_list_is_read_by_client():
    assert (list(LIST), len(LIST), LIST[2]) == ([1, 2], 2, TWO.public)
    assert LIST.verification_key(2) + LIST.agreement_key(2) == TWO.public
    for read in (LIST.verification_key, LIST.agreement_key):
        with pytest.raises(ProtocolError, match="client 3 is not enrolled"):
            read(3)


def test_a_list_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        LIST.entries = {}


def test_its_digest_is_over_every_client_and_key():
    assert LIST.digest == Enrolment({2: TWO.public, 1: ONE.public}).digest
    assert len(LIST.digest) == 32
    others = [
        {1: ONE.public},
        {1: TWO.public, 2: ONE.public},
        {1: ONE.public, 3: TWO.public},
        {1: ONE.public, 2: TWO.public, 3: THREE.public},
        {1: ONE.public, 2: TWO.public[:KEY_BYTES] + THREE.public[KEY_BYTES:]},
        {1: ONE.public, 2: THREE.public[:KEY_BYTES] + TWO.public[KEY_BYTES:]},
        {},
    ]
    assert len({LIST.digest, *(Enrolment(it).digest for it in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "entry", [b"", ONE.public[:-1], ONE.public + b"x", ONE.public[:KEY_BYTES]], ids=len
)
def test_an_entry_that_is_not_two_keys_is_refused(entry):
    with pytest.raises(ProtocolError, match="not two keys"):
        Enrolment({1: entry, 2: TWO.public})


@pytest.mark.parametrize(
    "twin",
    [
        ONE.public,
        ONE.public[:KEY_BYTES] + TWO.public[KEY_BYTES:],
        TWO.public[:KEY_BYTES] + ONE.public[KEY_BYTES:],
        TWO.public[:KEY_BYTES] * 2,
        TWO.public[:KEY_BYTES] + ONE.public[:KEY_BYTES],
    ],
    ids=range(5),
)
def test_a_key_that_is_listed_twice_is_refused(twin):
    with pytest.raises(ProtocolError, match="enrolled twice"):
        Enrolment({1: ONE.public, 2: twin})


# Signatures.

SHARED = [SharedWork(), SharedWork(remember=True)]


@pytest.mark.parametrize("shared", SHARED, ids=["alone", "remembering"])
def test_a_signature_holds_for_its_client_and_message_only(shared):
    signature = ONE.sign(b"message")
    assert len(signature) == SIGNATURE_BYTES
    for _ in range(2):  # A remembered success must not make the next one pass.
        shared.verify(LIST, 1, b"message", signature)
        for client, message, given in (
            (2, b"message", signature),
            (1, b"messagf", signature),
            (1, b"", signature),
            (1, b"message", signature[:-1]),
            (1, b"message", b""),
            (1, b"message", bytes([signature[0] ^ 1]) + signature[1:]),
            (1, b"message", TWO.sign(b"message")),
        ):
            with pytest.raises(ProtocolError, match=f"signature of client {client} does not hold"):
                shared.verify(LIST, client, message, given)
        with pytest.raises(ProtocolError, match="client 3 is not enrolled"):
            shared.verify(LIST, 3, b"message", THREE.sign(b"message"))


def test_a_frame_is_checked_once_under_its_rules_and_again_where_it_was_refused():
    asked: list[bytes] = []

    def checked(under: bytes, client: int, frame: bytes, *, holds: bool = True) -> bytes:
        def check() -> bytes:
            asked.append(under)
            if not holds:
                raise ProtocolError("refused")
            return under + frame

        return shared.checked(under, client, frame, check)

    shared = SharedWork(remember=True)
    assert [checked(b"a", 1, b"f") for _ in range(3)] == 3 * [b"af"] and asked == [b"a"]
    # Other rules, another client, or another frame is another question.
    assert (checked(b"b", 1, b"f"), checked(b"a", 2, b"f"), checked(b"a", 1, b"g")) == (
        b"bf",
        b"af",
        b"ag",
    )
    assert len(asked) == 4
    for _ in range(2):
        with pytest.raises(ProtocolError, match="refused"):
            checked(b"c", 1, b"f", holds=False)
    assert len(asked) == 6
    shared.end_session()
    assert checked(b"a", 1, b"f") == b"af" and len(asked) == 7
    shared = SharedWork()
    assert [checked(b"a", 1, b"f") for _ in range(3)] and len(asked) == 10


def test_a_signature_under_no_key_does_not_hold():
    with pytest.raises(ProtocolError, match="signature of client 1 does not hold"):
        verify(b"short", b"message", ONE.sign(b"message"), of=1)


def test_a_remembered_signature_is_of_the_key_not_of_the_id():
    """Two lists may give one id to two clients."""
    shared, signature = SharedWork(remember=True), ONE.sign(b"message")
    shared.verify(LIST, 1, b"message", signature)
    with pytest.raises(ProtocolError, match="does not hold"):
        shared.verify(Enrolment({1: THREE.public}), 1, b"message", signature)


# Shared work.


class Counted:
    """A key pair that counts its agreements."""

    def __init__(self, pair):
        self.pair, self.public, self.count = pair, pair.public, 0

    def agree(self, public):
        self.count += 1
        return self.pair.agree(public)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_pair_agrees_once_for_both_ends(lasting):
    one, two, third = (Counted(KeyPair.fresh()) for _ in range(3))
    shared = SharedWork(remember=True)
    secrets = {
        shared.agree(one, two.public, lasting=lasting),
        shared.agree(two, one.public, lasting=lasting),
        shared.agree(one, two.public, lasting=lasting),
    }
    assert secrets == {one.pair.agree(two.public)} and one.count + two.count == 1
    assert shared.agree(one, third.public, lasting=lasting) == third.pair.agree(one.public)
    assert one.count == 2 - two.count


def test_without_memory_everyone_agrees_for_itself():
    one, two, shared = Counted(KeyPair.fresh()), Counted(KeyPair.fresh()), SharedWork()
    assert shared.agree(one, two.public) == shared.agree(two, one.public)
    assert (one.count, two.count) == (1, 1)
    assert not shared._passing and not shared._lasting


def test_what_served_one_session_goes_with_it():
    one, two, shared = Counted(KeyPair.fresh()), Counted(KeyPair.fresh()), SharedWork(remember=True)
    shared.agree(one, two.public)
    shared.agree(one, two.public, lasting=True)
    shared.verify(LIST, 1, b"message", ONE.sign(b"message"))
    shared.end_session()
    assert not shared._passing and not shared._signed
    shared.agree(one, two.public, lasting=True)
    assert one.count == 2
    shared.agree(one, two.public)
    assert one.count == 3


@pytest.mark.parametrize("shared", SHARED, ids=["alone", "remembering"])
def test_a_key_that_cannot_be_used_is_refused_each_time(shared):
    for _ in range(2):
        with pytest.raises(ProtocolError, match="cannot be used"):
            shared.agree(KeyPair.fresh(), bytes(32))


def test_who_cannot_be_enrolled_is_left_out_and_harms_nobody_else():
    low_order = THREE.public[:KEY_BYTES] + bytes(KEY_BYTES)
    sound = {1: ONE.public, 2: TWO.public}
    assert admissible(sound) == sound
    for bad in (b"", b"x", ONE.public + b"x", low_order, bytes(2 * KEY_BYTES)):
        assert admissible(sound | {3: bad}) == sound
    # Of two that say they are the same, neither is believed.
    assert admissible(sound | {3: ONE.public}) == {2: TWO.public}
    assert admissible(sound | {3: THREE.public[:KEY_BYTES] + TWO.public[KEY_BYTES:]}) == {
        1: ONE.public
    }
