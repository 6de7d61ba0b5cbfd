"""Attacks 5, 6 and 17 on the one-shot sum: strangers, replays, and sums of too few.

Whoever gets a sum of one unknown and of summands that it knows has read the unknown. A server gets
there by inviting clients that are its own, by showing a committee what belongs to another session,
or by telling members that fewer were invited, for whom a smaller sum is large enough.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from one_shot_network import (
    EIGHT,
    PLAN,
    a_client,
    a_context,
    a_network,
    a_session,
    first_request,
    opened,
    plain_sum,
    spoken,
    summands,
    to_open,
)
from secagg_network import a_membership, an_enrolment, an_identity

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg.identity import Membership
from codex_ray.secagg.keys import bind
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_messages import Complaint
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.secagg.one_shot_session import OneShotOpening, open_one_shot
from codex_ray.secagg.protocols import OneShot
from codex_ray.types import Stage

VICTIM = EIGHT[0]


@pytest.fixture
def unbound(monkeypatch):
    """Sessions whose digest says nothing of the round, the nonce or who was invited."""
    open_one_shot.cache_clear()
    monkeypatch.setattr(OneShotOpening, "session", bind(a_context(), "any"))
    yield
    open_one_shot.cache_clear()


# Attack 6: what was said in an earlier round.


def replayed():
    """Yesterday's sum of everybody, less what today's committee opens of yesterday's others."""
    yesterday, today = a_context(60, round=0), a_context(60, round=1)
    parts = summands(EIGHT, yesterday)
    request, clients, uploads = spoken(yesterday, parts)
    total = opened(
        request,
        uploads,
        EIGHT,
        {one: clients[one].answer(to_open(request, uploads, EIGHT, one)) for one in EIGHT},
        context=yesterday,
    )
    _, committee, _ = spoken(today, summands(EIGHT, today))
    others = EIGHT[1:]
    answers = {one: committee[one].answer(to_open(request, uploads, others, one)) for one in EIGHT}
    assert len(set(map(type, answers.values()))) == 1
    if Complaint in map(type, answers.values()):
        return answers, parts
    rest = opened(request, uploads, others, answers, context=yesterday)
    return total - rest, parts


def test_a_committee_opens_nothing_of_another_round():
    answers, _ = replayed()
    assert set(answers.values()) == {Complaint(EIGHT[1:])}


@pytest.mark.usefixtures("unbound")
def test_mutation_if_sessions_are_not_told_apart_a_replay_reads_one():
    got, parts = replayed()
    np.testing.assert_array_equal(got, parts[VICTIM])


def test_what_was_sealed_for_one_member_opens_for_no_other():
    context = a_context()
    request, clients, uploads = spoken(context, summands(EIGHT, context))
    first, second = request.committee[:2]
    asking = to_open(request, uploads, EIGHT, second)
    assert clients[first].answer(asking) == Complaint(EIGHT)


def test_a_share_opens_under_its_own_senders_name_only():
    context = a_context()
    request, clients, uploads = spoken(context, summands(EIGHT, context))
    renamed = uploads | {EIGHT[1]: uploads[VICTIM]}
    asking = to_open(request, renamed, EIGHT, EIGHT[3])
    assert clients[EIGHT[3]].answer(asking) == Complaint((EIGHT[1],))


# Attack 5: clients that are the server's own.

PUPPETS = tuple(range(100, 107))


def with_puppets(*, enrolled, fresh=False):
    """The total of a session of the victim and puppets, less what the puppets sent."""
    members, context = (VICTIM, *PUPPETS), a_context(60)
    parts = summands(members, context)
    network = a_network(context, parts, members=members)
    lists = an_enrolment(enrolled)
    network.clients[VICTIM] = a_client(VICTIM, context, parts[VICTIM], members=enrolled)
    if fresh:  # Under the ids of others, whose private keys the server lacks.
        for one in PUPPETS:
            network.clients[one]._membership = Membership(an_identity(one + 1_000), lists)
    session = run_one_shot(members, context, PLAN, enrolment=lists.digest)
    total = network.run(session).groups[0].total
    return total - sum(parts[one] for one in PUPPETS), parts[VICTIM], network


@pytest.mark.parametrize("enrolled", [EIGHT, (*EIGHT, *PUPPETS[:-1])])
def test_a_session_with_a_stranger_in_it_is_not_entered(enrolled):
    context = a_context()
    parts = summands((*EIGHT, *PUPPETS), context)
    victim = a_client(VICTIM, context, parts[VICTIM], members=enrolled)
    request = next(a_session(context, members=(VICTIM, *PUPPETS)))[VICTIM]
    with pytest.raises(ProtocolError, match="are not enrolled"):
        victim.answer(request)


def test_nor_if_only_the_keys_were_looked_up(monkeypatch):
    """A stranger on the committee has no key to seal to."""
    monkeypatch.setattr(OneShotOpening, "strangers", lambda *_: ())
    context = a_context()
    parts = summands((*EIGHT, *PUPPETS), context)
    victim = a_client(VICTIM, context, parts[VICTIM])
    session = run_one_shot((VICTIM, *PUPPETS), context, PLAN, enrolment=an_enrolment(EIGHT).digest)
    with pytest.raises(ProtocolError, match="client 100 is not enrolled"):
        victim.answer(next(session)[VICTIM])


def test_puppets_under_the_ids_of_others_open_nothing():
    everyone = (VICTIM, *PUPPETS)
    with pytest.raises(SumAborted, match=r"[01] of a committee of 8"):
        with_puppets(enrolled=everyone, fresh=True)


def test_mutation_a_list_of_the_servers_own_reads_the_victim():
    got, secret, network = with_puppets(enrolled=(VICTIM, *PUPPETS))
    np.testing.assert_array_equal(got, secret)
    assert not network.refusals


def test_clients_with_another_list_make_no_common_sum():
    """The list is in the session's digest, and in the seed of the committee."""
    context = a_context()
    parts = summands(EIGHT, context)
    clients = {one: a_client(one, context, parts[one]) for one in EIGHT}
    clients[VICTIM] = OneShotClient(
        VICTIM,
        context,
        parts[VICTIM],
        membership=a_membership(VICTIM, (*EIGHT, *PUPPETS)),
        plan=lambda _: PLAN,
    )
    session = a_session(context)
    uploads = {one: clients[one].answer(it) for one, it in next(session).items()}
    asked = session.send(uploads)
    answers = {one: clients[one].answer(it) for one, it in asked.items()}
    about = {Complaint((VICTIM,)), Complaint(EIGHT[1:])}
    assert set(answers.values()) == about
    with pytest.raises(SumAborted, match=rf"leave out clients \[{VICTIM}\]"):
        session.send(answers)


# Attack 17: a sum of too few.

FORTY = tuple(range(40))
SPIES = FORTY[-2:]


def shown_another_list():
    """Members hear that only they, the victim and the spies were invited: three are then enough."""
    protocol, context = OneShot(), a_context(60)
    sizes, small = protocol.plan(40), protocol.plan(4)
    assert (sizes.threshold, small.minimum) == (22, 3) and sizes.corrupt == len(SPIES)
    parts = summands(FORTY, context)

    def client(one):
        return a_client(one, context, parts[one], members=FORTY, plan=protocol.plan)

    request = next(run(FORTY, context, sizes))[0]
    uploads = {one: client(one).answer(request) for one in (0, *SPIES)}
    survivors, answers = (0, *SPIES), {}
    for one in FORTY[1 : sizes.threshold + 1]:
        member = client(one)
        member.answer(next(run((0, one, *SPIES), context, small))[one])
        answers[one] = member.answer(to_open(request, uploads, survivors, one))
    if Complaint in map(type, answers.values()):
        return answers, None
    total = opened(request, uploads, survivors, answers, context=context)
    return total - plain_sum(parts, SPIES, 16).astype(np.uint16), parts[0]


def run(members, context, plan):
    """A session's server, which knows the enrolment of forty."""
    return run_one_shot(members, context, plan, enrolment=an_enrolment(FORTY).digest)


def test_shares_open_only_among_those_who_heard_of_the_same_members():
    answers, _ = shown_another_list()
    assert set(answers.values()) == {Complaint((0, *SPIES))}


@pytest.mark.usefixtures("unbound")
def test_mutation_if_the_members_are_not_part_of_the_session_three_of_forty_are_a_sum():
    got, secret = shown_another_list()
    np.testing.assert_array_equal(got, secret)


def test_neither_side_goes_on_with_fewer_than_the_minimum():
    context = a_context()
    parts = summands(EIGHT, context)
    session, few = a_session(context), EIGHT[: PLAN.minimum - 1]
    outbox = next(session)
    clients = {one: a_client(one, context, parts[one]) for one in EIGHT}
    uploads = {one: clients[one].answer(outbox[one]) for one in EIGHT}
    with pytest.raises(SumAborted, match=r"masked_input: 4 clients can go on, 5 are needed"):
        session.send({one: uploads[one] for one in few})
    asking = to_open(outbox[0], uploads, few, VICTIM)
    with pytest.raises(ProtocolError, match="4 survivors, 5 are needed"):
        clients[VICTIM].answer(asking)


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
def test_a_cohort_of_two_is_not_entered(adversary):
    protocol, context = OneShot(adversary=adversary), a_context()
    parts = summands(EIGHT, context)
    two = replace(PLAN, members=2, size=2, threshold=2, minimum=2)
    client = a_client(0, context, parts[0], plan=protocol.plan)
    with pytest.raises(ProtocolError, match="the cohort is 2"):
        client.answer(next(a_session(context, members=EIGHT[:2], plan=two))[0])
    with pytest.raises(SumAborted, match="the cohort is 2"):
        next(protocol.session(EIGHT[:2], context))


# One answer, one context.


def test_a_second_opening_in_the_same_round_under_another_nonce_is_refused():
    """The server begins anew with the same clients: nobody speaks, and so nobody opens, twice."""
    context = a_context()
    parts, spent = summands(EIGHT, context), set()
    spoken(context, parts, spent=spent)
    again = first_request(context)
    for one in EIGHT:
        with pytest.raises(ProtocolError, match="asked before"):
            a_client(one, context, parts[one], spent=spent).answer(again)


def test_a_member_that_spoke_in_one_session_opens_in_no_other():
    context = a_context()
    parts = summands(EIGHT, context)
    _, clients, _ = spoken(context, parts)
    request, _, uploads = spoken(context, parts)
    asking = to_open(request, uploads, EIGHT, EIGHT[2])
    assert asking.stage == Stage.UNMASK
    assert clients[EIGHT[2]].answer(asking) == Complaint(EIGHT)
