"""Replies that were changed cost the sum their sender at most, or end it; they never make it wrong.

An honest server, honest clients, and a line between them that changes some replies.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from secagg_modes import CAREFUL, CONFIRMING, MODES, every_mode, flip, mode_name
from secagg_network import (
    Network,
    a_context,
    a_membership,
    a_network,
    a_session,
    plain_sum,
    summands,
)

from codex_ray.errors import SumAborted
from codex_ray.secagg.keys import KeyPair
from codex_ray.secagg.messages import (
    AdvertisedKeys,
    MaskedInput,
    RevealedNonce,
    SealedShares,
    SignedSurvivors,
    UnmaskShares,
)
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

TEN = tuple(range(0, 30, 3))


@dataclass
class Tampering(Network):
    """A network that changes some replies on their way to the server."""

    changes: dict = field(default_factory=dict)

    def tamper(self, one, reply):
        change = self.changes.get((one, type(reply)))
        return change(reply) if change else reply


def tampered_outcome(changes, drops=None, protocol=MODES[2]):
    parts, context = summands(TEN, 5), a_context(5)
    clients = {
        one: protocol.client(one, context, parts[one].copy(), membership=a_membership(one, TEN))
        for one in TEN
    }
    network = Tampering(clients, drops or {}, changes=changes)
    result = network.run(a_session(protocol, TEN, context))
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    return result, network


def wrong_shares(reply):
    return UnmaskShares({owner: flip(share) for owner, share in reply.shares.items()})


@every_mode
@pytest.mark.parametrize("liars", [TEN[:1], TEN[5:6], TEN[-1:], TEN[:2], TEN[3:5]])
def test_wrong_shares_are_noticed_and_worked_around(protocol, liars):
    changes = {(one, UnmaskShares): wrong_shares for one in liars}
    drops = {9: Stage.MASKED_INPUT} if 9 not in liars else {}
    result, _ = tampered_outcome(changes, drops, protocol)
    assert len(result.members) == 10 - len(drops)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: UnmaskShares(dict.fromkeys(it.shares, b"short")),
        lambda it: UnmaskShares(dict.fromkeys(it.shares, b"\xff" * 36)),
        lambda _: UnmaskShares({}),
        lambda it: UnmaskShares(it.shares | {99: b"stranger"}),
    ],
)
def test_malformed_shares_are_left_out(change):
    result, _ = tampered_outcome({(0, UnmaskShares): change}, {27: Stage.MASKED_INPUT})
    assert result.members == TEN[:-1]


def test_wrong_shares_without_spare_ones_abort():
    drops = dict.fromkeys(TEN[:4], Stage.UNMASK)
    with pytest.raises(SumAborted, match="do not fit together"):
        tampered_outcome({(27, UnmaskShares): wrong_shares}, drops)


def test_shares_held_back_abort_with_the_count():
    drops = dict.fromkeys(TEN[:4], Stage.UNMASK)
    held_back = {(27, UnmaskShares): lambda _: UnmaskShares({})}
    with pytest.raises(SumAborted, match="5 shares of client 0 came of 6 needed"):
        tampered_outcome(held_back, drops)


@every_mode
def test_a_tampered_envelope_costs_its_receiver_only(protocol):
    change = {(0, SealedShares): lambda it: replace(it, sealed=it.sealed | {3: flip(it.sealed[3])})}
    result, network = tampered_outcome(change, protocol=protocol)
    assert result.members == tuple(one for one in TEN if one != 3)
    assert set(network.refusals) == {3} and "does not open" in network.refusals[3]


@pytest.mark.parametrize("part", ["escrow", "commitments"])
@pytest.mark.parametrize("drops", [{}, {0: Stage.MASKED_INPUT}])
def test_a_tampered_escrow_or_commitment_aborts_if_it_is_needed(part, drops):
    """Whoever deals what does not fit ends the sum; the first commitment is that of the seed."""
    at = 0 if not drops else 32
    change = {(0, SealedShares): lambda it: replace(it, **{part: flip(getattr(it, part), at)})}
    if part == "escrow" and not drops:
        assert tampered_outcome(change, drops)[0].members == TEN
        return
    why = "escrow of client 0 does not" if part == "escrow" else "client 0 came, but they do not"
    with pytest.raises(SumAborted, match=why):
        tampered_outcome(change, drops)


@every_mode
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (AdvertisedKeys, lambda it: replace(it, nonce=b"short")),
        (AdvertisedKeys, lambda _: UnmaskShares({})),
        (SealedShares, lambda it: replace(it, sealed={3: it.sealed[3]})),
        (SealedShares, lambda it: replace(it, sealed=it.sealed | {99: b""})),
        (SealedShares, lambda it: replace(it, commitments=it.commitments[:-1])),
        (MaskedInput, lambda it: MaskedInput(it.words[:-1])),
        (MaskedInput, lambda it: MaskedInput(it.words.astype(np.uint16))),
        (MaskedInput, lambda _: UnmaskShares({})),
    ],
)
def test_a_malformed_reply_counts_as_a_drop(protocol, kind, change):
    result, _ = tampered_outcome({(0, kind): change}, protocol=protocol)
    assert result.members == TEN[1:]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (RevealedNonce, lambda _: RevealedNonce(bytes(32))),
        (RevealedNonce, lambda it: RevealedNonce(it.nonce[:-1])),
        (RevealedNonce, lambda _: UnmaskShares({})),
    ],
)
def test_a_nonce_that_was_not_committed_to_counts_as_a_drop(kind, change):
    result, network = tampered_outcome({(0, kind): change}, protocol=CAREFUL)
    assert result.members == TEN[1:] and not network.refusals


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
def test_a_survivor_that_signs_nothing_stays_in_the_sum(protocol):
    change = {(0, SignedSurvivors): lambda _: UnmaskShares({})}
    result, network = tampered_outcome(change, protocol=protocol)
    assert result.members == TEN and 0 not in network.sent[Stage.UNMASK]


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
def test_a_wrong_signature_of_the_survivors_is_none(protocol):
    """The server passes none on that would make all neighbours refuse."""
    change = {(0, SignedSurvivors): lambda it: SignedSurvivors(flip(it.signature))}
    result, network = tampered_outcome(change, protocol=protocol)
    assert result.members == TEN and 0 not in network.sent[Stage.UNMASK]
    assert not network.refusals


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
def test_a_wrong_signature_of_an_advertisement_counts_as_a_drop(protocol):
    change = {(0, AdvertisedKeys): lambda it: replace(it, signature=flip(it.signature))}
    result, network = tampered_outcome(change, protocol=protocol)
    assert result.members == TEN[1:] and not network.refusals


@pytest.mark.parametrize("protocol", CONFIRMING, ids=mode_name)
@pytest.mark.parametrize("kind", [AdvertisedKeys, SignedSurvivors])
def test_mutation_if_the_server_passes_them_on_there_is_no_sum(monkeypatch, protocol, kind):
    """Nobody can tell whose word was changed, the server's or the client's: nobody answers."""
    monkeypatch.setattr("codex_ray.secagg.server._signed", lambda *_, **__: True)
    with pytest.raises(SumAborted, match=r"(share_keys: 0|unmask: 1) clients can go on"):
        tampered_outcome(
            {(0, kind): lambda it: replace(it, signature=flip(it.signature))}, protocol=protocol
        )


# One client's keys.


def run_with_keys(protocol, keys):
    """Who is in the sum when some clients advertise other X25519 keys, and sign for them."""
    parts, context = summands(TEN, 5), a_context(5)
    network = a_network(protocol, TEN, context, parts)
    for one, public in keys.items():
        advertise_instead(network.clients[one], public)
    result = network.run(a_session(protocol, TEN, context))
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    return result.members


def advertise_instead(client, public):
    honest = client._advertise

    def advertise(request):
        advert = replace(honest(request), public=public)
        opening, membership = client._opening, client._membership
        if opening.plan.signed:
            signature = membership.identity.sign(opening.statement(client._me, advert))
            advert = replace(advert, signature=signature)
        client._advert = advert
        return advert

    client._advertise = advertise


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
def test_keys_that_nobody_can_agree_by_count_as_drops(adversary):
    """All neighbours would refuse: a point of low order, and one key that two clients have."""
    protocol, twin = SecAgg(adversary=adversary), KeyPair.fresh().public
    assert run_with_keys(protocol, {3: bytes(32)}) == tuple(one for one in TEN if one != 3)
    left = tuple(one for one in TEN if one not in (3, 6))
    assert run_with_keys(protocol, {3: twin, 6: twin}) == left
