"""A client takes nobody's word for who is around it: each change of a key directory is refused.

Client 0 of six is shown the directory of the real server, changed. Where a change needs a corrupt
client to go along with the server, that client signs it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_modes import (
    CAREFUL,
    DIMENSION,
    MEMBERS,
    MODES,
    client_at,
    dies_of,
    every_mode,
    flip,
    mode_name,
    refuses,
    residue_sum,
    residues,
    without,
)
from secagg_network import (
    a_context,
    a_network,
    a_planned_network,
    a_planned_session,
    a_session,
    an_identity,
    summands,
)

from codex_ray.errors import ProtocolError
from codex_ray.secagg.identity import Identity
from codex_ray.secagg.keys import KeyPair
from codex_ray.secagg.messages import AdvertisedKeys, AdvertiseRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.types import Stage

SIGNED = MODES[2:]
LOOSE = MODES[:4]
"""Without and with signatures; the server's word for the roster."""


def advert_of(directory, one) -> AdvertisedKeys:
    return AdvertisedKeys.from_frame(directory.adverts[one])


def with_advert(directory, one, advert: AdvertisedKeys):
    return replace(directory, adverts=directory.adverts | {one: advert.to_frame()})


def signed(client, one, advert: AdvertisedKeys) -> AdvertisedKeys:
    """`advert` as client `one` would sign it, were it corrupt."""
    if not client._opening.plan.signed:
        return advert
    statement = client._opening.statement(one, advert)
    return replace(advert, signature=an_identity(one).sign(statement))


# What every mode refuses.

ANYWHERE = {
    "does not hold its own keys": [
        lambda it: without(it, 0, field="adverts"),
        lambda it: replace(it, adverts=it.adverts | {0: it.adverts[1]}),
        lambda it: with_advert(it, 0, replace(advert_of(it, 0), nonce=bytes(32))),
    ],
    "6 neighbours, 5 were announced": [
        lambda it: replace(it, adverts=it.adverts | {9: it.adverts[1]})
    ],
    "1 neighbours cannot hide it": [lambda it: without(it, 2, 3, 4, 5, field="adverts")],
    "0 neighbours cannot hide it": [lambda it: without(it, *MEMBERS[1:], field="adverts")],
    "3 share holders cannot give 4": [lambda it: without(it, 3, 4, 5, field="adverts")],
}


@every_mode
@pytest.mark.parametrize("why", ANYWHERE)
def test_directories_that_could_unmask_are_refused(protocol, why):
    for change in ANYWHERE[why]:
        client, honest = client_at(Stage.SHARE_KEYS, protocol)
        refuses(client, change(honest), why, honest)


@every_mode
@pytest.mark.parametrize(
    "frame", [b"", b"\0" * 8, AdvertiseRequest(6, 5, 4, bytes(32)).to_frame(), "cut", "longer"]
)
def test_what_is_no_advertisement_is_refused(protocol, frame):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    given = {"cut": honest.adverts[3][:-1], "longer": honest.adverts[3] + b"\0"}.get(frame, frame)
    why = "(frame|AdvertisedKeys was expected)"
    refuses(client, replace(honest, adverts=honest.adverts | {3: given}), why, honest)


@every_mode
@pytest.mark.parametrize("part", ["public", "nonce", "signature"])
@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x"])
def test_parts_of_another_length_are_refused(protocol, part, change):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    advert = advert_of(honest, 3)
    if not getattr(advert, part) and not change(b""):
        return  # What is empty cannot be shorter.
    advert = replace(advert, **{part: change(getattr(advert, part))})
    why = "(the advertisement of client 3 has the wrong lengths|advertises another commitment)"
    refuses(client, with_advert(honest, 3, advert), why, honest)


# Signatures.

FORGERIES = {
    "a bit of the signature": lambda it: replace(it, signature=flip(it.signature)),
    "a bit of the nonce": lambda it: replace(it, nonce=flip(it.nonce, 31)),
    "no signature at all": lambda it: replace(it, signature=bytes(64)),
}


@pytest.mark.parametrize("protocol", SIGNED, ids=mode_name)
@pytest.mark.parametrize("case", FORGERIES)
def test_what_a_neighbour_did_not_sign_is_refused(protocol, case):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    forged = FORGERIES[case](advert_of(honest, 3))
    why = "(the signature of client 3 does not hold|client 3 advertises another commitment)"
    refuses(client, with_advert(honest, 3, forged), why, honest)


@pytest.mark.parametrize("protocol", [it for it in SIGNED if it.keys == "session"], ids=mode_name)
def test_a_key_swapped_on_the_way_is_refused(protocol):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    swapped = replace(advert_of(honest, 3), public=KeyPair.fresh().public)
    refuses(client, with_advert(honest, 3, swapped), "signature of client 3 does not hold", honest)


def test_without_signatures_a_key_swapped_on_the_way_is_taken():
    """That is what semi_honest means; the test above would fail without the signatures."""
    client, honest = client_at(Stage.SHARE_KEYS, MODES[0])
    swapped = replace(advert_of(honest, 3), public=KeyPair.fresh().public)
    assert set(client.answer(with_advert(honest, 3, swapped)).sealed) == set(MEMBERS[1:])


@pytest.mark.parametrize("protocol", SIGNED, ids=mode_name)
def test_a_signature_serves_one_client_only(protocol):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    borrowed = replace(advert_of(honest, 3), signature=advert_of(honest, 2).signature)
    refuses(client, with_advert(honest, 3, borrowed), "signature of client 3 does not", honest)


@pytest.mark.parametrize("protocol", SIGNED[:2], ids=mode_name)
def test_an_advertisement_of_another_session_is_refused(protocol):
    context = a_context(DIMENSION)
    client, honest = client_at(Stage.SHARE_KEYS, protocol, context)
    _, other = client_at(Stage.SHARE_KEYS, protocol, context)
    replayed = replace(honest, adverts=honest.adverts | {3: other.adverts[3]})
    refuses(client, replayed, "the signature of client 3 does not hold", honest)


@pytest.mark.parametrize("protocol", [*SIGNED[:2], MODES[1]], ids=mode_name)
def test_an_unenrolled_neighbour_is_refused(protocol):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    sybil, advert = Identity.fresh(), advert_of(honest, 3)
    if protocol.adversary != "semi_honest":
        advert = replace(advert, signature=sybil.sign(client._opening.statement(9, advert)))
    bad = with_advert(without(honest, 3, field="adverts"), 9, advert)
    refuses(client, bad, "client 9 is not enrolled", honest)


# Keys.


@pytest.mark.parametrize("protocol", MODES[::2], ids=mode_name)
@pytest.mark.parametrize("twin", [0, 2])
def test_one_key_for_two_is_refused(protocol, twin):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    advert = replace(advert_of(honest, 3), public=advert_of(honest, twin).public)
    bad = with_advert(honest, 3, signed(client, 3, advert))
    refuses(client, bad, "a public key is listed twice", honest)


@pytest.mark.parametrize("protocol", MODES[::2], ids=mode_name)
@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31)])
def test_a_key_that_makes_the_secret_known_is_refused(protocol, public):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    advert = signed(client, 3, replace(advert_of(honest, 3), public=public))
    dies_of(client, with_advert(honest, 3, advert), f"{public.hex()} cannot be used", honest)


# The roster.


@pytest.mark.parametrize("protocol", LOOSE, ids=mode_name)
@pytest.mark.parametrize("roster", [b"", bytes(31), bytes(33)])
def test_a_roster_that_is_no_digest_is_refused(protocol, roster):
    client, honest = client_at(Stage.SHARE_KEYS, protocol)
    why = f"roster's digest has {len(roster)} bytes"
    refuses(client, replace(honest, roster=roster), why, honest)


# Under `malicious` the client computes the roster, and from it the graph.


@pytest.mark.parametrize("change", [{3: bytes(32)}, {3: b"x"}, {0: bytes(32)}, {9: bytes(32)}])
def test_a_nonce_that_was_not_committed_to_is_refused(change):
    client, honest = client_at(Stage.SHARE_KEYS, CAREFUL)
    why = f"the nonce of client {min(change)} is not the one it committed to"
    refuses(client, replace(honest, nonces=honest.nonces | change), why, honest)


def test_a_neighbour_that_was_not_listed_is_refused():
    client, honest = client_at(Stage.SHARE_KEYS, CAREFUL)
    bad = without(honest, 3, field="adverts")
    bad = replace(bad, adverts=bad.adverts | {9: honest.adverts[3]})
    refuses(client, bad, r"\[9\] are not its neighbours in the graph", honest)


def test_another_commitment_than_was_listed_is_refused():
    client, honest = client_at(Stage.SHARE_KEYS, CAREFUL)
    advert = signed(client, 3, replace(advert_of(honest, 3), nonce=bytes(32)))
    why = "client 3 advertises another commitment"
    refuses(client, with_advert(honest, 3, advert), why, honest)


def test_a_neighbour_that_did_not_reveal_its_nonce_is_refused():
    """Its nonce is what makes the graph another: who withholds it does not take part."""
    client, honest = client_at(Stage.SHARE_KEYS, CAREFUL)
    silent = {one: nonce for one, nonce in honest.nonces.items() if one != 3}
    refuses(client, replace(honest, nonces=silent), "client 3 did not reveal its nonce", honest)


SPARSE = tuple(range(12))


def at_directories(adversary):
    """The clients of a sparse session, and the directories that they are to be sent."""
    sizes, context = Plan(12, 6, 5, 7, adversary), a_context(DIMENSION)
    network = a_planned_network(sizes, SPARSE, context, summands(SPARSE, DIMENSION))
    session = a_planned_session(sizes, SPARSE, context)
    outbox = next(session)
    while outbox[0].stage != Stage.SHARE_KEYS:
        outbox = session.send({one: network.clients[one].answer(it) for one, it in outbox.items()})
    return network.clients, outbox


@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_a_neighbourhood_of_the_servers_choice_is_refused_under_malicious(adversary):
    """Bell et al. (2020), section 5: a server that picks the neighbours picks corrupt ones."""
    clients, outbox = at_directories(adversary)
    near, everyone = set(outbox[0].adverts), {}
    for directory in outbox.values():
        everyone |= directory.adverts
    stranger = min(set(SPARSE) - near)
    chosen = without(outbox[0], max(near), field="adverts")
    chosen = replace(chosen, adverts=chosen.adverts | {stranger: everyone[stranger]})
    if adversary == "malicious":
        why = rf"\[{stranger}\] are not its neighbours in the graph"
        refuses(clients[0], chosen, why, outbox[0])
    else:
        assert stranger in clients[0].answer(chosen).sealed


def test_fewer_neighbours_than_the_graph_has_are_taken():
    """The others may have dropped; the threshold still counts."""
    clients, outbox = at_directories("malicious")
    fewer = without(outbox[0], max(set(outbox[0].adverts) - {0}), field="adverts")
    assert len(clients[0].answer(fewer).sealed) == 5
    two_less = without(outbox[1], *sorted(set(outbox[1].adverts) - {1})[:2], field="adverts")
    with pytest.raises(ProtocolError, match="4 share holders cannot give 5 shares"):
        clients[1].answer(two_less)


# The server's side of it.


@every_mode
@pytest.mark.parametrize(
    "change",
    [
        lambda it: replace(it, public=it.public + b"x"),
        lambda it: replace(it, nonce=it.nonce[:-1]),
        lambda it: replace(it, signature=it.signature + b"x"),
    ],
)
def test_a_malformed_advertisement_counts_as_silence(protocol, change):
    context = a_context(DIMENSION)
    parts = residues(MEMBERS, context)
    network = a_network(protocol, MEMBERS, context, {k: v.copy() for k, v in parts.items()})
    network.tamper = lambda one, reply: (
        change(reply) if one == 3 and isinstance(reply, AdvertisedKeys) else reply
    )
    result = network.run(a_session(protocol, MEMBERS, context))
    assert result.members == (0, 1, 2, 4, 5)
    np.testing.assert_array_equal(
        result.groups[0].total, residue_sum(parts, result.members, context)
    )
