"""Attack 4: the server tells different clients different things about who survived.

Two claims about one client need two quorums for it, and a threshold above (k + corrupt)/2 leaves
room for one only. That is not the end of it: claims about everybody else single a client out
without ever opening both its secrets. Against that only helps what clients sign to each other:
then an honest client that answers has t neighbours who signed that it survives, so no t of them
say that it dropped, and whoever is to be taken off the victim no longer vouches for the victim.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from isolation import delivers_only, stories
from lying_server import TEN, LyingServer, planned_server, request_for
from secagg_network import an_identity

from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.keys import self_mask_key
from codex_ray.secagg.messages import ShareDelivery, SurvivorClaim, UnmaskRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_masks
from codex_ray.secagg.protocols import SecAgg, SecAggPlus
from codex_ray.types import ClientId, Stage

HUNDRED = tuple(range(100))
CAREFUL, DEFAULT = SecAgg(adversary="malicious"), SecAgg()
VICTIM = 0


def tell(server: LyingServer, dropped) -> None:
    """Ask everybody to unmask, each with a story of its own: whom it is to take for dropped.

    Where clients sign such stories, each gets the signatures of those that heard the same.
    """
    claims: dict[ClientId, tuple[ClientId, ...]] = {}
    signed: dict[ClientId, bytes] = {}
    if server.stage == Stage.CONFIRM_SURVIVORS:
        for one in server.clients:
            gone = dropped(one)
            claims[one] = tuple(peer for peer in server.clients if peer not in gone)
            reply = server.ask(one, SurvivorClaim(claims[one]))
            signed |= {one: reply.signature} if reply else {}
    for one, client in server.clients.items():
        if client._secrets is None:
            continue
        signatures = {
            peer: _signature_of(server, peer, claims[one]) if peer in server.spies else signed[peer]
            for peer in client._secrets.held
            if claims and (peer in server.spies or (peer in signed and claims[peer] == claims[one]))
        }
        server.ask(one, request_for(server, one, dropped(one), signatures=signatures))


def _signature_of(server: LyingServer, spy: ClientId, claim: tuple[ClientId, ...]) -> bytes:
    """A spy signs whatever is wanted."""
    opening = server.clients[spy]._opening
    return an_identity(spy).sign(opening.survivors_statement(server.digest, claim))


def split(server: LyingServer, believers) -> bool:
    """Tell `believers` that the victim survived, and the rest that it dropped."""
    server.until(server.last_trips)
    tell(server, lambda one: () if one in (VICTIM, *believers) else (VICTIM,))
    return server.reads(VICTIM)


def isolate(server: LyingServer, masked_with=None) -> bool:
    """Open the escrow of everyone that the victim masked with, and no other secret but its seed."""
    lie = delivers_only(VICTIM, server.clients if masked_with is None else masked_with)
    server.until(server.last_trips, {Stage.MASKED_INPUT: lie})
    peers = set(server.asked[Stage.MASKED_INPUT][VICTIM].sealed) - server.spies
    told = stories(server, peers)
    assert told is not None, "no client would believe so many drops"
    tell(server, told.__getitem__)
    assert not any(server.has_both(one) for one in server.clients)
    return server.reads(VICTIM)


# Two claims about the victim.


@pytest.mark.parametrize("protocol", [DEFAULT, CAREFUL], ids=lambda it: it.adversary)
@pytest.mark.parametrize("count", range(9))
def test_two_claims_never_collect_both_secrets(protocol, count):
    server = LyingServer(protocol, spies={9})
    assert not split(server, TEN[1 : count + 1]) and not server.has_both(VICTIM)


@pytest.mark.parametrize("count", range(7))
def test_three_conspirators_need_a_higher_threshold(count):
    server = LyingServer(SecAgg(assumed_corrupt=0.3), spies={7, 8, 9})
    assert server.sizes.threshold == 7
    assert not split(server, TEN[1 : count + 1])


@pytest.mark.parametrize(
    ("threshold", "spies"), [(5, ()), (6, (7, 8, 9))], ids=["half", "conspirators left out"]
)
@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_mutation_a_lower_threshold_falls_to_two_claims(threshold, spies, adversary):
    """Signatures do not help: they are counted against the same threshold."""
    server = planned_server(Plan(10, 9, threshold, threshold, adversary), spies=spies)
    assert split(server, TEN[1:5] if not spies else TEN[1:4])
    assert server.has_both(VICTIM)


# Claims about everybody else.


ISOLATED = [
    pytest.param(DEFAULT, TEN, range(1, 6), id="complete, few envelopes delivered"),
    pytest.param(SecAggPlus(), HUNDRED, None, id="sparse, everything delivered"),
]


@pytest.mark.parametrize(("protocol", "members", "masked_with"), ISOLATED)
@pytest.mark.parametrize("keys", ["session", "enrolled"])
@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_claims_about_everybody_else_isolate_nobody(
    protocol, members, masked_with, keys, adversary
):
    protocol = protocol.model_copy(update={"adversary": adversary, "keys": keys})
    server = LyingServer(protocol, members)
    assert not isolate(server, masked_with)
    assert any("neighbours signed the survivors" in why for why in server.refusals.values())


@pytest.mark.parametrize(("protocol", "members", "masked_with"), ISOLATED)
def test_mutation_without_the_comparison_one_is_isolated(
    monkeypatch, protocol, members, masked_with
):
    monkeypatch.setattr(SecAggClient, "_check_confirmed", lambda *_: None)
    assert isolate(LyingServer(protocol, members), masked_with)


def test_under_semi_honest_nothing_is_compared_as_documented():
    assert isolate(LyingServer(SecAgg(adversary="semi_honest"), TEN), range(1, 6))


def one_story(server: LyingServer) -> bool:
    """Everybody hears that those dropped with whom the victim masked: a story that all can sign."""
    spied = len(server.spies)
    dropped = range(1, server.sizes.threshold - spied)
    lie = delivers_only(VICTIM, {*dropped, *server.spies})
    server.until(Stage.CONFIRM_SURVIVORS, {Stage.MASKED_INPUT: lie})
    tell(server, lambda one: tuple(dropped))
    return server.reads(VICTIM)


@pytest.mark.parametrize("protocol", [DEFAULT, CAREFUL], ids=lambda it: it.adversary)
@pytest.mark.parametrize("members", [8, 9, 10, 11, 20])
def test_one_story_for_all_isolates_nobody(protocol, members):
    """Those who dropped vouch for nobody, and without them the victim's seed stays closed."""
    assert not one_story(LyingServer(protocol, tuple(range(members)), spies={members - 1}))


def test_mutation_below_a_majority_one_story_isolates():
    assert one_story(planned_server(Plan(10, 9, 5, 6, "malicious"), spies={9}))


# Lies at random, on every trip after the directory.

SIX = tuple(range(6))


def lie_at_random(server: LyingServer, draw: random.Random) -> bool:
    """Hold envelopes back, and tell each one of three tales of who dropped; whether that pays."""
    server.until(Stage.MASKED_INPUT)
    tales = [{one for one in SIX if draw.random() < 0.4} for _ in range(3)]
    heard = {one: draw.choice(tales) - {one} for one in SIX}
    for one, request in server.outbox.items():
        # Mostly of those that will be said to have dropped: any other is missed at once.
        kept = {
            peer: box
            for peer, box in request.sealed.items()
            if draw.random() < (0.6 if peer in heard[one] else 0.97)
        }
        server.ask(one, ShareDelivery(kept if len(kept) >= 3 else request.sealed))
    server.outbox = {VICTIM: SurvivorClaim(SIX)}
    tell(server, heard.__getitem__)
    return any(server.has_both(one) or server.reads(one) for one in SIX[:5])


@pytest.mark.parametrize("protocol", [DEFAULT, CAREFUL], ids=lambda it: it.adversary)
def test_no_lies_single_anybody_out(protocol):
    draw = random.Random(1)
    servers = [LyingServer(protocol, SIX, spies={5}) for _ in range(100)]
    assert not any(lie_at_random(server, draw) for server in servers)
    # Some tales were believed: otherwise nothing was tried.
    assert sum(len(server.replies[Stage.UNMASK]) for server in servers) > 10


def test_mutation_below_a_majority_and_without_the_comparison_they_do(monkeypatch):
    monkeypatch.setattr(SecAggClient, "_check_confirmed", lambda *_: None)
    draw, sizes = random.Random(1), Plan(6, 5, 3, 4, "malicious")
    assert any(lie_at_random(planned_server(sizes, spies={5}), draw) for _ in range(100))


# One story for all, and envelopes kept back: a part of the cohort is summed apart.

PART = TEN[:6]
"""As many as rebuild a secret among ten, and fewer than a sum of ten has to have."""
APART = SecAgg(assumed_dropout=0.1, fewest_survivors=9)


def sums_a_part(server: LyingServer) -> bool:
    """Whether the server has the sum over PART alone, of whom nobody masked with the others."""
    assert server.threshold == len(PART) < server.sizes.minimum
    server.until(Stage.MASKED_INPUT)
    for one, request in server.outbox.items():
        part = {peer: box for peer, box in request.sealed.items() if peer in PART}
        server.ask(one, ShareDelivery(part if one in PART else request.sealed))
    server.outbox = {VICTIM: SurvivorClaim(TEN)}
    signed = {one: server.ask(one, SurvivorClaim(TEN)) for one in TEN}
    for one in PART:
        if signed[one] is not None:
            signatures = {peer: it.signature for peer, it in signed.items() if it and peer in PART}
            server.ask(one, UnmaskRequest(PART, (), signatures))
    seeds = {one: server.rebuilt("seed", one) for one in PART}
    if None in seeds.values():
        return False
    total = np.sum([server.replies[Stage.MASKED_INPUT][one].words for one in PART], axis=0)
    total = total.astype(np.uint32)
    for one, seed in seeds.items():
        apply_masks(total, [(self_mask_key(seed, server.digest, me=one), True)])
    truth = np.sum([server.parts[one] for one in PART], axis=0).astype(np.uint32)
    return np.array_equal(total, truth)


@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_no_part_of_the_cohort_is_summed_apart(adversary):
    server = LyingServer(APART.model_copy(update={"adversary": adversary}))
    assert not sums_a_part(server)
    assert all("no shares of them came" in server.refusals[one] for one in PART)


@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_mutation_without_missing_the_envelopes_a_part_is(monkeypatch, adversary):
    monkeypatch.setattr(SecAggClient, "_check_heard", lambda *_: None)
    assert sums_a_part(LyingServer(APART.model_copy(update={"adversary": adversary})))
