"""Who was shown another roster is in another session: what the digests are over, and what for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lying_server import Blind
from secagg_modes import (
    DEFAULT,
    DIMENSION,
    MEMBERS,
    MODES,
    client_at,
    dies_of,
    every_mode,
    mode_name,
    residues,
    without,
)
from secagg_network import (
    a_context,
    a_membership,
    a_network,
    a_session,
    an_enrolment,
    an_identity,
    summands,
)

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg.identity import Enrolment, Membership
from codex_ray.secagg.messages import AdvertisedKeys, AdvertiseRequest, ShareDelivery
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import SecAgg
from codex_ray.secagg.roster import Opening, roster_of, roster_of_nonces
from codex_ray.types import Stage


@every_mode
def test_clients_that_were_shown_two_rosters_share_no_key(protocol):
    """The server tells client 0 of one nonce less, or of another digest: nothing opens any more."""
    context = a_context(DIMENSION)
    network = a_network(protocol, MEMBERS, context, residues(MEMBERS, context))
    session = a_session(protocol, MEMBERS, context)
    outbox = next(session)
    while outbox[0].stage != Stage.SHARE_KEYS:
        outbox = session.send({one: network.clients[one].answer(it) for one, it in outbox.items()})
    if protocol.adversary == "malicious":
        honest, silent = outbox[0], {one: outbox[0].nonces[one] for one in MEMBERS if one != 5}
        outbox[0] = replace(without(honest, 5, field="adverts"), nonces=silent)
    else:
        outbox[0] = replace(outbox[0], roster=bytes(32))
    shared = {one: network.clients[one].answer(it) for one, it in outbox.items()}
    delivery = ShareDelivery({one: it.sealed[0] for one, it in shared.items() if one not in (0, 5)})
    dies_of(network.clients[0], delivery, "does not open", delivery)
    others = {one: shared[one].sealed[1] for one in (0, 2, 3, 4)}
    with pytest.raises(ProtocolError, match="what client 0 sealed for client 1 does not open"):
        network.clients[1].answer(ShareDelivery(others))


@pytest.mark.parametrize("protocol", MODES[:4], ids=mode_name)
def test_a_server_that_repeats_nonce_and_roster_gets_no_key_twice(protocol):
    """With enrolled keys the pair secret lasts, so only the advertisements can tell sessions apart.

    Two sessions under one pair mask would show the difference of two summands, and an envelope key
    used twice that of two shares.
    """
    context, keys = a_context(DIMENSION), []
    request = AdvertiseRequest(6, 5, 4, b"n" * 32)
    for _ in range(2):
        clients = [
            protocol.client(
                one,
                context,
                np.zeros(DIMENSION, np.uint32),
                membership=a_membership(one, MEMBERS),
            )
            for one in MEMBERS
        ]
        adverts = {one: client.answer(request).to_frame() for one, client in enumerate(clients)}
        _, directory = client_at(Stage.SHARE_KEYS, protocol)
        clients[0].answer(replace(directory, adverts=adverts, roster=bytes(32)))
        keys.append({key for it in clients[0]._secrets.pairs.values() for key in vars(it).values()})
        session = clients[0]._session
    assert clients[0]._opening.session(bytes(32)) == session
    assert len(keys[0]) == len(keys[1]) == 15 and not keys[0] & keys[1]


def test_two_enrolment_lists_make_two_sessions():
    """A list with one stranger more: signatures are bound to the list, so nobody is believed."""
    context = a_context(DIMENSION)
    longer = Enrolment(dict(an_enrolment(MEMBERS)) | {9: an_identity(9).public})
    clients = {
        one: DEFAULT.client(
            one,
            context,
            np.zeros(DIMENSION, np.uint32),
            membership=Membership(an_identity(one), an_enrolment(MEMBERS) if one else longer),
        )
        for one in MEMBERS
    }
    network = a_network(DEFAULT, MEMBERS, context, summands(MEMBERS, DIMENSION))
    network.clients = clients
    blind = Blind(an_enrolment(MEMBERS).entries)
    with pytest.raises(SumAborted, match="share_keys: 0 clients"):
        network.run(DEFAULT.session(MEMBERS, context, enrolment=blind))
    assert all("does not hold" in why for why in network.refusals.values())
    assert set(network.refusals) == set(MEMBERS)


# What the digests are over.

OPENING = Opening(a_context(5), Plan(6, 5, 4, 4), b"n" * 32, b"e" * 32)
OTHER_OPENINGS = {
    "context": replace(OPENING, context=a_context(5, round=1)),
    "adversary": replace(OPENING, plan=Plan(6, 5, 4, 4, "malicious")),
    "keys": replace(OPENING, plan=Plan(6, 5, 4, 4, keys="enrolled")),
    "nonce": replace(OPENING, nonce=b"o" * 32),
    "enrolment": replace(OPENING, enrolment=b"f" * 32),
}


@pytest.mark.parametrize("part", OTHER_OPENINGS)
def test_each_part_of_the_opening_changes_what_is_bound_to_it(part):
    other, keys = OTHER_OPENINGS[part], AdvertisedKeys(b"p" * 32, b"q" * 32, b"")
    for make in (
        lambda it: it.statement(1, keys),
        lambda it: it.session(b"r" * 32),
        lambda it: it.commitment(1, b"q" * 32),
    ):
        assert make(OPENING) == make(replace(OPENING))
        assert make(OPENING) != make(other)


def test_a_statement_is_of_one_client_key_and_nonce():
    keys = AdvertisedKeys(b"p" * 32, b"q" * 32, b"")
    others = [(1, keys), (2, keys), (1, replace(keys, public=b"x")), (1, replace(keys, nonce=b"x"))]
    assert len({OPENING.statement(*it) for it in others}) == 4
    assert OPENING.statement(1, keys) == OPENING.statement(1, replace(keys, signature=b"s"))


def test_the_graph_of_enrolled_keys_lasts_for_the_run():
    """Pair secrets are kept from round to round, and pairs are to meet again."""
    lasting = OTHER_OPENINGS["keys"]
    later = replace(lasting, context=a_context(5, round=7), nonce=b"x" * 32)
    assert lasting.graph_seed(b"s" * 32) == later.graph_seed(b"t" * 32)
    assert lasting.graph_seed(b"s") != replace(lasting, enrolment=b"f" * 32).graph_seed(b"s")
    assert OPENING.graph_seed(b"s" * 32) == b"s" * 32


def test_a_roster_is_over_every_advertisement_and_who_sent_it():
    one = roster_of({1: b"a", 2: b"b"})
    assert one == roster_of({2: b"b", 1: b"a"})
    others = [{1: b"a"}, {1: b"b", 2: b"a"}, {1: b"a", 3: b"b"}, {1: b"a", 2: b"c"}, {}]
    assert len({one, *map(roster_of, others)}) == 6


def test_a_roster_of_nonces_is_over_commitments_and_nonces():
    nonces = {one: bytes([one]) * 32 for one in range(3)}
    committed = {one: OPENING.commitment(one, nonce) for one, nonce in nonces.items()}
    whole = roster_of_nonces(OPENING, committed, nonces)
    silent = roster_of_nonces(OPENING, committed, {one: nonces[one] for one in (0, 1)})
    fewer = {one: committed[one] for one in (0, 1)}
    assert len({whole, silent, roster_of_nonces(OPENING, fewer, {0: nonces[0]})}) == 3
    with pytest.raises(ProtocolError, match="the nonce of client 2 is not the one"):
        roster_of_nonces(OPENING, fewer, nonces)


def test_protocols_without_a_common_mode_make_no_session():
    """Server and client disagree on the adversary: nobody answers what the other side expects."""
    context = a_context(DIMENSION)
    network = a_network(SecAgg(), MEMBERS, context, summands(MEMBERS, DIMENSION))
    with pytest.raises(SumAborted, match="advertise_keys: 0 clients"):
        network.run(a_session(MODES[0], MEMBERS, context))
