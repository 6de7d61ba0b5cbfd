"""Attacks 2 and 6: keys that serve twice, and messages of an earlier session sent again.

With enrolled keys the X25519 secret of a pair is the same in every session, so only what goes into
the derivation keeps two sessions apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lying_server import CONTEXT, DIMENSION, TEN, LyingServer, looks_uniform, small_summands
from secagg_modes import every_mode

from codex_ray.secagg import client as client_module
from codex_ray.secagg import server as honest_server
from codex_ray.secagg.keys import bind
from codex_ray.secagg.protocols import SecAgg
from codex_ray.secagg.roster import Opening
from codex_ray.types import Stage

ENROLLED = SecAgg(keys="enrolled")
VICTIM = 0
LATER = {
    "run": b"s" * 16,
    "round": 1,
    "attempt": 1,
    "model_digest": b"x" * 32,
    "bits": 31,
}
"""What tells a later session from the first one: one field of the context each."""


def other_summands():
    return {one: part[::-1].copy() for one, part in small_summands(TEN).items()}


def two_rounds(monkeypatch, later):
    """The difference of the victim's two masked inputs without the self masks, and of summands."""
    monkeypatch.setattr(honest_server, "fresh_secret", lambda count: b"n" * count)
    left, parts = [], (small_summands(TEN), other_summands())
    for context, some in zip((CONTEXT, later), parts, strict=True):
        server = LyingServer(ENROLLED, context=context, parts=some)
        server.finish()
        left.append(server.bared(VICTIM))
    return left[0] - left[1], parts[0][VICTIM] - parts[1][VICTIM]


@pytest.mark.parametrize("field", [None, *LATER])
def test_pair_masks_never_serve_twice(monkeypatch, field):
    """Not even if the server repeats its nonce, and the same round is done again."""
    later = replace(CONTEXT, **{field: LATER[field]}) if field else CONTEXT
    masked, bare = two_rounds(monkeypatch, later)
    assert looks_uniform(masked) or later.bits != 32
    assert not np.array_equal(masked, bare)


def only_of_the_context(monkeypatch, name):
    """A mutation: pair keys depend on nothing but `name` of the opening, which is the context."""
    genuine = client_module.pair_keys

    def pair_keys(secret, session, *, me, peer, adverts):
        return genuine(secret, name["is"], me=me, peer=peer, adverts={me: b"", peer: b""})

    def opened(self, roster):
        name["is"] = bind(self.context)
        return genuine_session(self, roster)

    genuine_session = Opening.session
    monkeypatch.setattr(Opening, "session", opened)
    monkeypatch.setattr(client_module, "pair_keys", pair_keys)


def test_mutation_without_nonces_a_repeated_round_shows_the_difference(monkeypatch):
    only_of_the_context(monkeypatch, {})
    masked, bare = two_rounds(monkeypatch, CONTEXT)
    np.testing.assert_array_equal(masked, bare)


@pytest.mark.parametrize("field", ["run", "round", "attempt", "model_digest"])
def test_each_field_of_the_context_does_that_by_itself(monkeypatch, field):
    """The same mutation: with another round or attempt the difference stays hidden."""
    only_of_the_context(monkeypatch, {})
    masked, bare = two_rounds(monkeypatch, replace(CONTEXT, **{field: LATER[field]}))
    assert looks_uniform(masked) and not np.array_equal(masked, bare)


# Attack 6: old messages.


@every_mode
def test_requests_of_an_earlier_session_are_refused(protocol):
    """All but the first and those that name ids only, which say nothing of a session."""
    earlier = LyingServer(protocol)
    earlier.finish()
    bound = {Stage.REVEAL_NONCES, Stage.SHARE_KEYS, Stage.MASKED_INPUT}
    bound |= set() if protocol.adversary == "semi_honest" else {Stage.UNMASK}
    for stage in bound & set(earlier.asked):
        later = LyingServer(protocol)
        later.until(stage)
        assert later.ask(VICTIM, earlier.asked[stage][VICTIM]) is None
        assert set(later.refusals) == {VICTIM}


@every_mode
def test_an_answer_to_a_repeated_first_request_is_a_new_one(protocol):
    request = LyingServer(protocol).outbox[VICTIM]
    answers = [LyingServer(protocol).ask(VICTIM, request) for _ in range(2)]
    assert answers[0].nonce != answers[1].nonce
    assert answers[0].public != answers[1].public or protocol.keys == "enrolled"


@every_mode
@pytest.mark.parametrize("stage", [Stage.SHARE_KEYS, Stage.MASKED_INPUT])
def test_one_entry_of_an_earlier_session_is_refused(protocol, stage):
    """An advertisement under signatures, and an envelope always, is of its session."""
    field = "adverts" if stage == Stage.SHARE_KEYS else "sealed"
    earlier, later = LyingServer(protocol), LyingServer(protocol)
    earlier.finish()
    later.until(stage)
    old = getattr(earlier.asked[stage][VICTIM], field)[5]
    request = later.outbox[VICTIM]
    mixed = replace(request, **{field: getattr(request, field) | {5: old}})
    signed = protocol.adversary != "semi_honest"
    assert (later.ask(VICTIM, mixed) is None) == (signed or stage == Stage.MASKED_INPUT)


def second_secret(monkeypatch) -> bool:
    """Ask in a second session for the escrow shares of the first, in which the victim survived.

    Under semi_honest, where clients do not sign who survived: that alone would stop it too.
    """
    protocol = SecAgg(adversary="semi_honest", keys="enrolled")
    monkeypatch.setattr(honest_server, "fresh_secret", lambda count: b"n" * count)
    first = LyingServer(protocol)
    first.finish()
    assert first.rebuilt("seed", VICTIM) and not first.reads(VICTIM)
    second = LyingServer(protocol)
    second.until(Stage.MASKED_INPUT)
    for one in TEN[1:]:
        second.ask(one, first.asked[Stage.MASKED_INPUT][one])
    for one, client in second.clients.items():
        if client._expected == Stage.UNMASK and one != VICTIM:
            request = first.asked[Stage.UNMASK][one]
            survivors = tuple(peer for peer in request.survivors if peer != VICTIM)
            reply = client.answer(replace(request, survivors=survivors, dropped=(VICTIM,)))
            first._add("escrow", VICTIM, one, reply.shares[VICTIM])
    return first.reads(VICTIM)


def test_old_envelopes_do_not_open(monkeypatch):
    assert not second_secret(monkeypatch)


def test_mutation_envelopes_of_no_session_give_the_second_secret(monkeypatch):
    """Keys of the lasting secret alone, in sessions that all look the same."""
    genuine = client_module.pair_keys
    monkeypatch.setattr(
        client_module,
        "pair_keys",
        lambda secret, session, *, me, peer, adverts: genuine(
            secret, session, me=me, peer=peer, adverts={me: b"", peer: b""}
        ),
    )
    monkeypatch.setattr(Opening, "session", lambda *_: bytes(32))
    assert second_secret(monkeypatch)


def test_the_dimension_is_part_of_the_context_too():
    assert bind(CONTEXT) != bind(replace(CONTEXT, dimension=DIMENSION + 1))
