"""What a committee member answers wrongly is left out or ends the sum, and the member is named.

Where nobody can tell whose fault it is, nobody is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from one_shot_network import (
    EIGHT,
    PLAN,
    a_client,
    a_context,
    a_network,
    a_session,
    plain_sum,
    summands,
)
from secagg_network import Network

from codex_ray.errors import SumAborted
from codex_ray.secagg import one_shot_client, one_shot_server
from codex_ray.secagg.one_shot_messages import Complaint, ShareSum
from codex_ray.secagg.shamir import PRIME
from codex_ray.types import ClientId, Stage
from codex_ray.wire import Message

CONTEXT = a_context(200)
SPARE = PLAN.size - PLAN.threshold  # 8 - 5
LIAR = EIGHT[2]


@dataclass
class Corrupted(Network):
    """A network in which some committee members answer something else."""

    lies: dict[ClientId, Callable[[Message], Message]] = field(default_factory=dict)

    def tamper(self, one, reply):
        at_work = reply.stage == Stage.UNMASK and one in self.lies
        return self.lies[one](reply) if at_work else reply


def answers(lies, *, silent=()):
    """The total of a sum in which those members lie and those are silent, and what it has to be."""
    parts = summands(EIGHT, CONTEXT)
    clients = {one: a_client(one, CONTEXT, parts[one]) for one in EIGHT}
    network = Corrupted(clients, dict.fromkeys(silent, Stage.UNMASK), lies=lies)
    result = network.run(a_session(CONTEXT))
    return result.groups[0].total, plain_sum(parts, EIGHT, CONTEXT.bits)


def flip(reply):
    share = reply.share.copy()
    share[7] ^= 1
    return replace(reply, share=share)


def anything(reply):
    return replace(reply, share=np.arange(reply.share.size, dtype=np.uint32))


def named(text: str) -> list[int]:
    """The ids in the first list of a line."""
    found = re.search(r"\[([\d, ]*)\]", text)
    return [int(one) for one in found[1].split(",")] if found else []


# Wrong numbers.


@pytest.mark.parametrize("lie", [flip, anything])
@pytest.mark.parametrize("silent", [(), EIGHT[-1:], EIGHT[-2:]])
def test_a_lie_is_left_out_and_the_liar_named(caplog, lie, silent):
    """With as many to spare as three, two and one."""
    got, want = answers({LIAR: lie}, silent=silent)
    np.testing.assert_array_equal(got, want)
    (line,) = caplog.messages
    assert named(line) == [LIAR] and "answer wrongly" in line


def test_of_ten_to_spare_five_liars_are_found(caplog):
    members = tuple(range(36))
    plan = replace(PLAN, members=36, size=36, corrupt=15, threshold=26, minimum=19)
    parts = summands(members, CONTEXT)
    clients = {
        one: a_client(one, CONTEXT, parts[one], members=members, plan=plan) for one in members
    }
    liars = (1, 8, 9, 20, 35)
    network = Corrupted(clients, lies=dict.fromkeys(liars, anything))
    result = network.run(a_session(CONTEXT, members=members, plan=plan))
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, members, CONTEXT.bits))
    assert named(caplog.messages[0]) == list(liars)


def test_nobody_is_named_where_all_are_right(caplog):
    got, want = answers({})
    np.testing.assert_array_equal(got, want)
    assert not caplog.messages


@pytest.mark.parametrize("count", [2, 3])
def test_of_too_many_liars_nobody_is_named(caplog, count):
    with pytest.raises(SumAborted, match=r"too many of the 8 answers .* are wrong") as end:
        answers(dict.fromkeys(EIGHT[:count], anything))
    assert named(str(end.value)) == [] and not caplog.messages


def test_with_none_to_spare_nobody_can_tell(caplog):
    with pytest.raises(SumAborted, match="no answer came beyond") as end:
        answers({LIAR: flip}, silent=EIGHT[-SPARE:])
    assert named(str(end.value)) == [] and not caplog.messages


def test_liars_who_agree_make_nobody_else_the_liar(monkeypatch, caplog):
    """They move the sum of the keys a little, on polynomials that honest answers lie on too.

    Their story has seven of eight answers on its side, and one honest member against it. Only the
    noise tells, and then the honest member must not be the one that is named.
    """
    honest = tuple(one for one in EIGHT if one not in EIGHT[:3])
    roots = [EIGHT.index(one) + 1 for one in honest[:4]]

    def shift(at):
        """A polynomial of degree 4 that vanishes where four honest members stand, and is 1 at 0."""
        value = 1
        for root in roots:
            value = value * (root - at) * pow(root, -1, PRIME) % PRIME
        return value

    def move(number):
        def lie(reply):
            share = reply.share.astype(np.int64)
            share[7] = (share[7] + shift(number)) % PRIME
            return replace(reply, share=share.astype(np.uint32))

        return lie

    story = {one: move(EIGHT.index(one) + 1) for one in EIGHT[:3]}
    with pytest.raises(SumAborted, match="too many"):
        answers(story)
    assert not caplog.messages
    monkeypatch.setattr("codex_ray.secagg.lattice._check_squares", lambda *_, **__: None)
    got, want = answers(story)
    assert np.mean(got == want) < 0.1
    assert named(caplog.messages[0]) == [honest[-1]]


REBUILD = one_shot_server.rebuild


def test_mutation_a_server_that_looks_at_the_first_answers_only_has_a_wrong_sum(monkeypatch):
    """If nothing is checked, a liar that knows who else is asked moves one key coefficient by 1."""
    monkeypatch.setattr("codex_ray.secagg.lattice._check_squares", lambda *_, **__: None)
    monkeypatch.setattr(
        one_shot_server,
        "rebuild",
        lambda shares, **sizes: REBUILD(dict(list(shares.items())[: PLAN.threshold]), **sizes),
    )

    def lie(reply):
        number, weight = EIGHT.index(LIAR) + 1, 1
        for at in range(1, PLAN.threshold + 1):
            if at != number:
                weight = weight * at * pow(at - number, -1, PRIME) % PRIME
        share = reply.share.astype(np.int64)
        share[7] = (share[7] + pow(weight, -1, PRIME)) % PRIME
        return replace(reply, share=share.astype(np.uint32))

    got, want = answers({LIAR: lie})
    assert np.mean(got == want) < 0.1


# Answers of another form.

FORMS = {
    "too short": lambda it: replace(it, share=it.share[:-1]),
    "too long": lambda it: replace(it, share=np.append(it.share, np.uint32(0))),
    "short words": lambda it: replace(it, share=it.share.astype(np.uint16)),
    "outside the field": lambda it: replace(it, share=np.full_like(it.share, PRIME)),
    "another message": lambda it: Complaint(()),
    "a complaint about a stranger": lambda it: Complaint((999,)),
}


@pytest.mark.parametrize("form", FORMS)
def test_another_form_counts_as_silence_while_others_are_enough(form):
    got, want = answers({LIAR: FORMS[form]})
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", FORMS)
def test_another_form_is_named_where_too_few_are_left(form):
    with pytest.raises(SumAborted, match="4 of a committee of 8 gave a sum, 5 are needed") as end:
        answers({LIAR: FORMS[form]}, silent=EIGHT[-SPARE:])
    assert "leave out committee members" in str(end.value) and named(str(end.value)) == [LIAR]


def test_the_silent_are_not_blamed():
    with pytest.raises(SumAborted, match="wait longer") as end:
        answers({}, silent=EIGHT[-SPARE - 1 :])
    assert named(str(end.value)) == []


# Shares that do not open.


def dealt_badly(monkeypatch, dealer, receivers):
    """Let `dealer` seal nothing that opens for those receivers."""
    real = one_shot_client.seal

    def seal(key, plain, session, *, sender, receiver):
        raw = real(key, plain, session, sender=sender, receiver=receiver)
        bad = sender == dealer and receiver in receivers
        return raw[:-1] + bytes([raw[-1] ^ 1]) if bad else raw

    monkeypatch.setattr(one_shot_client, "seal", seal)


def test_a_client_that_seals_badly_for_many_is_named(monkeypatch):
    dealt_badly(monkeypatch, LIAR, EIGHT[:4])
    with pytest.raises(SumAborted, match="leave out clients") as end:
        answers({})
    assert named(str(end.value)) == [LIAR]


def test_one_voice_proves_nothing(monkeypatch):
    dealt_badly(monkeypatch, LIAR, EIGHT[:1])
    with pytest.raises(SumAborted, match="say so falsely") as end:
        answers({}, silent=EIGHT[-SPARE:])
    assert named(str(end.value)) == [LIAR]
    assert f"committee members [{EIGHT[0]}]" in str(end.value)


def test_a_false_complaint_reaches_nobody_while_others_answer(caplog):
    got, want = answers({LIAR: lambda _: Complaint((EIGHT[5],))})
    np.testing.assert_array_equal(got, want)


def test_a_client_that_deals_off_the_polynomial_costs_the_one_answer(monkeypatch, caplog):
    """The member that got the bad share is named, and that it may not be to blame is said."""
    real, calls = one_shot_client.split, []

    def split(*args, **sizes):
        shares = real(*args, **sizes)
        calls.append(1)
        if len(calls) == 1:
            shares[5, 0] = (int(shares[5, 0]) + 1) % PRIME
        return shares

    monkeypatch.setattr(one_shot_client, "split", split)
    got, want = answers({})
    np.testing.assert_array_equal(got, want)
    assert named(caplog.messages[0]) == [EIGHT[5]] and "dealt them wrong" in caplog.messages[0]


def test_a_key_that_was_not_shared_is_blamed_on_a_client():
    network = a_network(CONTEXT, summands(EIGHT, CONTEXT))
    session = a_session(CONTEXT)
    uploads = {one: network.clients[one].answer(it) for one, it in next(session).items()}
    low = uploads[LIAR].low.copy()
    low[0] ^= 64
    asked = session.send(uploads | {LIAR: replace(uploads[LIAR], low=low[::-1].copy())})
    sums = {one: network.clients[one].answer(it) for one, it in asked.items()}
    assert all(isinstance(it, ShareSum) for it in sums.values())
    with pytest.raises(SumAborted, match="answers fit together, so a client masked") as end:
        session.send(sums)
    assert named(str(end.value)) == []
