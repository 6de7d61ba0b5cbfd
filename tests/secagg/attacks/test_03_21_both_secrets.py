"""Attacks 3 and 21: to get both secrets of a client, or its masked input when one is known.

The self mask covers what comes too late, after the pair seeds of a client were opened; the state
machine and the checks of the unmask trip see to it that the other secret stays closed.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lying_server import (
    TEN,
    LyingServer,
    gives_whatever_is_asked,
    looks_uniform,
    planned_server,
    request_for,
)
from secagg_modes import every_mode
from secagg_network import a_context

from codex_ray.secagg import client as client_module
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.messages import SurvivorClaim, UnmaskRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

VICTIM = 0
BARE = SecAgg(adversary="semi_honest")
"""Without signatures of who survived, so that the check on trial stands alone."""
SIX = tuple(range(6))


def asked_twice(protocol) -> LyingServer:
    """The server after an honest end, and a second request in which the victim dropped."""
    server = LyingServer(protocol)
    server.finish()
    for one in TEN[1:]:
        request = server.asked[Stage.UNMASK][one]
        survivors = tuple(peer for peer in request.survivors if peer != VICTIM)
        server.ask(one, UnmaskRequest(survivors, (VICTIM,), request.signatures))
    return server


@every_mode
def test_a_second_request_gives_no_second_secret(protocol):
    server = asked_twice(protocol)
    assert set(server.refusals) == set(TEN[1:]) and not server.reads(VICTIM)
    assert all("session is at: over" in why for why in server.refusals.values())


def test_mutation_clients_that_answer_twice_give_both(monkeypatch):
    genuine = SecAggClient._step

    def answers_again(client, message):
        reply, after = genuine(client, message)
        return reply, after or Stage.UNMASK

    monkeypatch.setattr(SecAggClient, "_step", answers_again)
    server = asked_twice(BARE)
    assert server.has_both(VICTIM) and server.reads(VICTIM)


def itself_dropped(protocol) -> LyingServer:
    """The server after all were told that the victim dropped, the victim included.

    One share of its escrow it holds itself: without it there are five of six.
    """
    server = LyingServer(protocol, spies={9, 8, 7, 6})
    server.until(Stage.UNMASK)
    for one in (0, 5):
        server.ask(one, request_for(server, one, (VICTIM,)))
    for one in (1, 2, 3, 4):
        server.ask(one, request_for(server, one, ()))
    return server


def test_a_client_does_not_help_to_drop_itself():
    server = itself_dropped(BARE)
    assert "not among the survivors" in server.refusals[VICTIM]
    assert not server.has_both(VICTIM)


def test_mutation_a_client_that_does_gives_the_missing_share(monkeypatch):
    monkeypatch.setattr(SecAggClient, "_unmask", gives_whatever_is_asked)
    assert itself_dropped(BARE).reads(VICTIM)


# Attack 21: the masked input of a client that was already declared dropped.


@every_mode
def test_a_masked_input_that_comes_too_late_cannot_be_read(protocol):
    server = dropped_victim(protocol)
    assert server.rebuilt("escrow", VICTIM) and not server.rebuilt("seed", VICTIM)
    assert set(server.pair_seeds(VICTIM)) == set(TEN[1:])
    left = server.bared(VICTIM)
    assert looks_uniform(left) and not server.reads(VICTIM)


def test_mutation_without_a_self_mask_it_can(monkeypatch):
    monkeypatch.setattr(client_module, "self_mask_key", lambda *_, **__: bytes(32))
    monkeypatch.setattr(
        client_module, "apply_masks", without_key(client_module.apply_masks, bytes(32))
    )
    assert dropped_victim(BARE).reads(VICTIM)


def without_key(apply_masks, key):
    def some(words, masks):
        apply_masks(words, [mask for mask in masks if mask[0] != key])

    return some


def dropped_victim(protocol) -> LyingServer:
    """The server has the victim's masked input, but goes on as if it had not come in time."""
    server = LyingServer(protocol)
    server.until(Stage.MASKED_INPUT)
    inbox = {one: server.ask(one, request) for one, request in server.outbox.items()}
    inbox.pop(VICTIM)
    server.outbox = server.session.send(inbox)
    server.finish()
    return server


# No sequence of requests opens both secrets of anybody.

ROLES = st.sampled_from(["survivor", "dropped", "both", "neither"])
STORIES = st.dictionaries(st.sampled_from(SIX), ROLES, max_size=6)
"""Who is what in a request; who is not listed survives."""


def told(story, one, members=SIX) -> UnmaskRequest:
    roles = {peer: story.get(peer, "survivor") for peer in members}
    roles[one] = story.get(one, "survivor")
    return UnmaskRequest(
        tuple(peer for peer in members if roles[peer] in ("survivor", "both")),
        tuple(peer for peer in members if roles[peer] in ("dropped", "both")),
        {},
    )


few = settings(
    deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True
)


@few
@given(
    st.dictionaries(
        st.sampled_from(SIX), st.lists(STORIES, min_size=1, max_size=3), min_size=6, max_size=6
    ),
    st.sampled_from(["session", "enrolled"]),
    st.sampled_from([(), (5,)]),
)
def test_no_requests_open_both_secrets_of_anybody(stories, keys, spies):
    server = LyingServer(
        BARE.model_copy(update={"keys": keys}), SIX, context=a_context(4), spies=spies
    )
    server.until(Stage.UNMASK)
    for one, sequence in stories.items():
        for story in sequence:
            server.ask(one, told(story, one))
    assert not any(server.has_both(one) for one in SIX)


@few
@given(
    st.sampled_from(["semi_malicious", "malicious"]),
    st.lists(st.sets(st.sampled_from(SIX), min_size=3), min_size=6, max_size=6),
    st.lists(st.sampled_from(SIX), min_size=6, max_size=6),
)
def test_nor_do_claims_that_differ(adversary, claims, requests):
    """Each client signs a claim of its own; the requests follow from that of some client."""
    server = LyingServer(SecAgg(adversary=adversary), SIX, context=a_context(4))
    server.until(Stage.CONFIRM_SURVIVORS)
    claimed = {one: tuple(sorted(claims[one])) for one in SIX}
    signed = {one: server.ask(one, SurvivorClaim(claimed[one])) for one in SIX}
    for one in SIX:
        claim = claimed[requests[one]]
        signatures = {
            peer: it.signature for peer, it in signed.items() if it and claimed[peer] == claim
        }
        dropped = tuple(peer for peer in SIX if peer not in claim)
        server.ask(one, UnmaskRequest(claim, dropped, signatures))
    assert not any(server.has_both(one) for one in SIX)


def test_mutation_a_lower_threshold_is_found_by_the_same_requests():
    """Two of four shares: three clients say that the victim survived, and three that it dropped."""
    server = planned_server(Plan(6, 5, 3, 3, "semi_honest"))
    server.until(Stage.UNMASK)
    for one in SIX:
        server.ask(one, told({VICTIM: "dropped"} if one > 2 else {}, one))
    assert server.has_both(VICTIM)


@pytest.mark.parametrize("role", ["both", "neither"])
def test_a_client_that_is_both_or_neither_is_nobody(role):
    server = LyingServer(BARE, SIX, context=a_context(4))
    server.until(Stage.UNMASK)
    for one in SIX[1:]:
        server.ask(one, told({VICTIM: role}, one))
    assert len(server.refusals) == (5 if role == "both" else 0)
    assert not server.shares["seed"][VICTIM] and not server.shares["escrow"][VICTIM]
