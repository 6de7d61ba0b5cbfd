"""Shares, survivor claims and unmask requests that would unmask a client end its session.

A case for each check, by its own reason, as in test_refusals.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from secagg_modes import (
    CONFIRMING,
    DIMENSION,
    MEMBERS,
    client_at,
    dies_of,
    every_mode,
    flip,
    mode_name,
    refuses,
    without,
)
from secagg_network import a_context, a_planned_network, a_planned_session, an_identity, summands

from codex_ray.secagg.messages import ShareDelivery, SurvivorClaim, UnmaskRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.types import Stage

# Trip 3: masked input.

DELIVERY = {
    r"shares of \[9\], which are not its neighbours": lambda it: replace(
        it, sealed=it.sealed | {9: it.sealed[1]}
    ),
    r"shares of \[0\], which are not its neighbours": lambda it: replace(
        it, sealed=it.sealed | {0: it.sealed[1]}
    ),
    "1 neighbours with shares cannot hide it": lambda it: without(it, 2, 3, 4, 5, field="sealed"),
    "0 neighbours with shares cannot hide it": lambda _: ShareDelivery({}),
    "2 neighbours are too few for 4 shares": lambda it: without(it, 3, 4, 5, field="sealed"),
}
"""Of lengths and ids; what is in the envelopes comes below."""
ENVELOPE = {
    "client 2 sealed for client 0 does not open": lambda it: it.sealed | {2: it.sealed[3]},
    "client 3 sealed for client 0 does not open": lambda it: (
        it.sealed | {3: flip(it.sealed[3], len(it.sealed[3]) - 1)}
    ),
    "client 4 sealed for client 0 does not open": lambda it: it.sealed | {4: b""},
}


@every_mode
@pytest.mark.parametrize("why", DELIVERY)
def test_deliveries_that_could_unmask_are_refused(protocol, why):
    client, honest = client_at(Stage.MASKED_INPUT, protocol)
    refuses(client, DELIVERY[why](honest), why, honest)


@every_mode
@pytest.mark.parametrize("why", ENVELOPE)
def test_envelopes_of_anybody_else_are_refused(protocol, why):
    client, honest = client_at(Stage.MASKED_INPUT, protocol)
    dies_of(client, replace(honest, sealed=ENVELOPE[why](honest)), why, honest)


def test_sealed_shares_of_a_wrong_length_are_refused(monkeypatch):
    client, honest = client_at(Stage.MASKED_INPUT)
    monkeypatch.setattr("codex_ray.secagg.client.unseal", lambda *_, **__: bytes(71))
    refuses(client, honest, "71 bytes instead of two shares", honest)


@every_mode
def test_a_delivery_of_another_session_is_refused(protocol):
    context = a_context(DIMENSION)
    client, honest = client_at(Stage.MASKED_INPUT, protocol, context)
    # The same run, round and attempt once more: only the nonces tell the two apart.
    _, replayed = client_at(Stage.MASKED_INPUT, protocol, context)
    dies_of(client, replayed, "does not open", honest)


# Trip 3b: confirm survivors.

CLAIMS = {
    "not listed once each, in increasing order": [(1, 0, 2, 3, 4), (0, 1, 1, 2, 3, 4)],
    "not among the survivors": [(1, 2, 3, 4)],
    "survivors that never could take part": [(0, 1, 2, 3, 9)],
    "3 survivors, 4 are needed": [(0, 1, 2)],
}


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
@pytest.mark.parametrize(
    ("why", "claim"), [(why, claim) for why, claims in CLAIMS.items() for claim in claims]
)
def test_claims_that_could_unmask_are_not_signed(protocol, why, claim):
    client, honest = client_at(Stage.CONFIRM_SURVIVORS, protocol)
    refuses(client, SurvivorClaim(claim), why, honest)


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
def test_a_second_claim_is_not_signed(protocol):
    client, honest = client_at(Stage.CONFIRM_SURVIVORS, protocol)
    client.answer(honest)
    refuses(client, SurvivorClaim((0, 1, 2, 3)), "the session is at: unmask", honest)


# Trip 4: unmask.

UNMASK = {
    r"\[3\] are said to survive and to have dropped": ((0, 1, 2, 3, 4), (3, 5)),
    "but not among the survivors": ((1, 2, 3, 4), (5,)),
    "in the sum, but not among the survivors": ((1, 2, 3, 4), (0, 5)),
    r"never got shares of \[9\]": ((0, 1, 2, 3, 9), (5,)),
    r"never got shares of \[8\]": ((0, 1, 2, 3), (8,)),
    "3 survivors around it, 4 are needed": ((0, 1, 2), (3, 4, 5)),
    "3 survivors around it": ((0, 1, 2, 2, 2), ()),
}


@every_mode
@pytest.mark.parametrize("why", UNMASK)
def test_unmask_requests_that_could_unmask_are_refused(protocol, why):
    client, honest = client_at(Stage.UNMASK, protocol)
    survivors, dropped = UNMASK[why]
    bad = replace(honest, survivors=survivors, dropped=dropped)
    refuses(client, bad, why, honest)


@every_mode
def test_shares_of_a_client_that_never_delivered_any_are_not_given(protocol):
    client, delivery = client_at(Stage.MASKED_INPUT, protocol)
    client.answer(without(delivery, 5, field="sealed"))
    signed = {}
    if protocol in CONFIRMING:
        client.answer(SurvivorClaim(MEMBERS[:5]))
        signed = signatures(client, (1, 2, 3, 4), MEMBERS[:5])
    bad, honest = (UnmaskRequest(MEMBERS[:5], gone, signed) for gone in ((5,), ()))
    refuses(client, bad, r"never got shares of \[5\]", honest)


@every_mode
def test_a_second_unmask_request_gets_nothing(protocol):
    for survivors, dropped in ((MEMBERS[:5], (5,)), (MEMBERS, ())):
        client, first = client_at(Stage.UNMASK, protocol)
        client.answer(first)
        assert client._secrets is None
        second = replace(first, survivors=survivors, dropped=dropped)
        refuses(client, second, "session is at: over", first)


@every_mode
def test_a_client_gives_one_share_of_each_neighbour_and_never_both(protocol):
    client, request = client_at(Stage.UNMASK, protocol)
    held = client._secrets.held
    shares = client.answer(request).shares
    assert shares == {one: held[one].seed for one in range(5)} | {5: held[5].escrow}


def signatures(client, signers, survivors):
    statement = client._opening.survivors_statement(client._session, survivors)
    return {one: an_identity(one).sign(statement) for one in signers}


def fewer(client, request):
    """A smaller claim, signed by those that it names: honest clients would not, corrupt ones do."""
    signed = signatures(client, (1, 2, 3), (0, 1, 2, 3))
    return replace(request, survivors=(0, 1, 2, 3), dropped=(4, 5), signatures=signed)


def signed_by_others(client, request):
    """The client itself, one that dropped, a stranger and too few neighbours."""
    return replace(request, signatures=signatures(client, (0, 1, 2, 5, 9), request.survivors))


CONFIRMED = [
    ("the survivors around it are not those", fewer),
    (
        "the survivors around it are not those",
        lambda _, it: replace(it, survivors=MEMBERS, dropped=()),
    ),
    ("the dropped around it are not those", lambda _, it: replace(it, dropped=())),
    (
        "2 neighbours signed the .* 4 are needed",
        lambda _, it: without(it, 3, 4, field="signatures"),
    ),
    ("0 neighbours signed", lambda _, it: replace(it, signatures={})),
    ("2 neighbours signed", signed_by_others),
]


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
@pytest.mark.parametrize(("why", "change"), CONFIRMED)
def test_what_neighbours_did_not_sign_is_refused(protocol, why, change):
    client, honest = client_at(Stage.UNMASK, protocol)
    refuses(client, change(client, honest), why, honest)


FORGED = {
    "the signature of client 1 does not hold": lambda _, it: {1: it.signatures[4]},
    "the signature of client 2 does not hold": lambda _, it: {2: flip(it.signatures[2])},
    "the signature of client 3 does not hold": lambda one, _: signatures(one, (3,), MEMBERS),
    "the signature of client 1 does not": lambda _, __: {1: b""},
}
"""Three are needed, for on the complete graph the client's own share counts too."""


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
@pytest.mark.parametrize("why", FORGED)
def test_forged_confirmations_are_refused(protocol, why):
    client, honest = client_at(Stage.UNMASK, protocol)
    forged = honest.signatures | FORGED[why](client, honest)
    dies_of(client, replace(honest, signatures=forged), why, honest)


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
@pytest.mark.parametrize("forged", [(1,), (4,), (2, 4), (1, 2, 3, 4)])
def test_with_two_confirmations_that_hold_nothing_is_given(protocol, forged):
    """Wherever the forged ones stand among them."""
    client, honest = client_at(Stage.UNMASK, protocol)
    genuine = [one for one in honest.signatures if one not in forged][:2]
    signed = {one: honest.signatures[one] for one in genuine}
    signed |= {one: flip(honest.signatures[one]) for one in forged}
    dies_of(client, replace(honest, signatures=signed), "does not hold", honest)


@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_on_a_sparse_graph_the_own_signature_does_not_count(adversary):
    """There the own share does not either: threshold neighbours have to sign."""
    sizes, members, context = Plan(12, 6, 5, 7, adversary), tuple(range(12)), a_context(DIMENSION)
    network = a_planned_network(sizes, members, context, summands(members, DIMENSION))
    session = a_planned_session(sizes, members, context)
    outbox = next(session)
    while outbox[0].stage != Stage.UNMASK:
        outbox = session.send({one: network.clients[one].answer(it) for one, it in outbox.items()})
    near = sorted(outbox[0].signatures)
    assert len(near) == 6
    four = without(outbox[0], *near[:2], field="signatures")
    refuses(network.clients[0], four, "4 neighbours signed the .* 5 are needed", outbox[0])
    five = without(outbox[1], min(outbox[1].signatures), field="signatures")
    assert network.clients[1].answer(five).shares
