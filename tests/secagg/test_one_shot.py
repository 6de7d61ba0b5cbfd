"""The one-shot sum is exact or aborts, whoever drops and whatever is altered on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_shot_network import (
    EIGHT,
    PLAN,
    SMALL,
    a_client,
    a_context,
    a_network,
    a_session,
    plain_sum,
    spoken,
    summands,
)
from secagg_network import Network

from codex_ray.errors import SumAborted
from codex_ray.secagg import lattice, one_shot_client
from codex_ray.secagg.committee import plan_committee
from codex_ray.secagg.lattice import Masked
from codex_ray.secagg.one_shot_messages import Complaint, FoldedUpload, ShareSum
from codex_ray.secagg.parameters import Assumptions
from codex_ray.types import Stage
from codex_ray.wire import read_frame

# The sum.


def run_schedule(data, members, plan, bits):
    """One drawn schedule ends in the exact sum over those who spoke, or in a clean abort."""
    context = a_context(5, bits, round=data.draw(st.integers(0, 3)))
    parts = summands(members, context)
    stages = st.sampled_from([Stage.MASKED_INPUT, Stage.UNMASK])
    drops = data.draw(st.dictionaries(st.sampled_from(members), stages))
    network = a_network(context, parts, members=members, plan=plan, drops=drops)
    staying = tuple(one for one in members if drops.get(one) != Stage.MASKED_INPUT)
    try:
        result = network.run(a_session(context, members=members, plan=plan))
    except SumAborted:
        answering = [one for one in network.sent.get(Stage.UNMASK, ()) if one not in drops]
        assert len(staying) < plan.minimum or len(answering) < plan.threshold
        return
    assert result.members == staying and not network.refusals
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, staying, bits))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_fuzzed_schedule_ends_in_the_exact_sum_or_aborts(data):
    plan = data.draw(st.sampled_from([PLAN, SMALL, replace(SMALL, packing=2)]))
    run_schedule(data, EIGHT, plan, data.draw(st.sampled_from([16, 20, 32])))


@pytest.mark.slow
@settings(deadline=None, max_examples=10_000)
@given(st.data())
def test_ten_thousand_fuzzed_schedules(data):
    run_schedule(data, EIGHT, data.draw(st.sampled_from([PLAN, SMALL])), 16)


def test_a_cohort_with_a_drawn_committee():
    members = tuple(range(70))
    plan = plan_committee(70, Assumptions(0.05, 0.1))
    context = a_context(3_000)
    parts = summands(members, context)
    quiet = dict.fromkeys(members[:20], Stage.MASKED_INPUT)
    network = a_network(context, parts, members=members, plan=plan, drops=quiet)
    session = a_session(context, members=members, plan=plan)
    committee = next(a_session(context, members=members, plan=plan))[0].committee
    network.drops = {one: it for one, it in quiet.items() if one not in committee}
    result = network.run(session)
    assert len(committee) == plan.size == 19 and set(network.sent[Stage.UNMASK]) == set(committee)
    np.testing.assert_array_equal(
        result.groups[0].total, plain_sum(parts, result.members, context.bits)
    )
    assert set(result.members) == set(members) - set(network.drops)


def test_a_committee_member_that_spoke_too_late_still_helps():
    context = a_context()
    parts = summands(EIGHT, context)
    session, late = a_session(context), EIGHT[2]
    network = a_network(context, parts)
    uploads = {one: network.clients[one].answer(it) for one, it in next(session).items()}
    del uploads[late]
    asked = session.send(uploads)
    assert late in asked and late not in asked[late].survivors
    few = dict(islice(((one, network.clients[one].answer(asked[one])) for one in asked), 5))
    assert late in few
    with pytest.raises(StopIteration) as end:
        session.send(few)
    rest = tuple(one for one in EIGHT if one != late)
    np.testing.assert_array_equal(
        end.value.value.groups[0].total, plain_sum(parts, rest, context.bits)
    )


def test_folded_uploads_count_like_their_own():
    context = a_context()
    parts = summands(EIGHT, context)
    session, network = a_session(context), a_network(context, parts)
    uploads = {one: network.clients[one].answer(it) for one, it in next(session).items()}
    first, *others = EIGHT
    folded = Masked(uploads[first].low.copy(), uploads[first].high.copy())
    for one in others:
        folded.add(uploads[one].low, uploads[one].high)
    inbox = {
        one: FoldedUpload(len(it.to_frame()), it.nonce, it.sealed) for one, it in uploads.items()
    } | {first: replace(uploads[first], low=folded.low, high=folded.high)}
    asked = session.send({one: read_frame(it.to_frame()) for one, it in inbox.items()})
    with pytest.raises(StopIteration) as end:
        session.send({one: network.clients[one].answer(it) for one, it in asked.items()})
    np.testing.assert_array_equal(
        end.value.value.groups[0].total, plain_sum(parts, EIGHT, context.bits)
    )


def test_a_summand_may_come_when_it_is_needed():
    context = a_context()
    parts = summands(EIGHT, context)
    made = []

    def later(one):
        return lambda: made.append(one) or parts[one]

    clients = {one: a_client(one, context, later(one)) for one in EIGHT}
    assert not made
    result = Network(clients).run(a_session(context))
    assert sorted(made) == list(EIGHT)
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, EIGHT, context.bits))


# Altered and replayed messages.


def test_an_upload_of_another_round_opens_for_nobody():
    old, new = a_context(round=0), a_context(round=1)
    parts = summands(EIGHT, old)
    _, _, yesterday = spoken(old, parts)
    session, victim = a_session(new), EIGHT[3]
    outbox = next(session)
    clients = {one: a_client(one, new, parts[one]) for one in EIGHT}
    uploads = {one: clients[one].answer(outbox[one]) for one in EIGHT}
    asked = session.send(uploads | {victim: yesterday[victim]})
    answers = {one: clients[one].answer(it) for one, it in asked.items()}
    assert set(answers.values()) == {Complaint((victim,))}
    with pytest.raises(SumAborted, match=rf"leave out clients \[{victim}\]"):
        session.send(answers)


def tampered(at_stage, change):
    """A network in which one reply at a stage arrives changed."""

    class Tampering(Network):
        done = False

        def tamper(self, one, reply):
            if reply.stage == at_stage and not self.done:
                self.done = True
                return change(reply)
            return reply

    return Tampering


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_an_altered_sealed_share_costs_one_answer_and_no_more():
    context = a_context()
    parts = summands(EIGHT, context)
    altered = tampered(Stage.MASKED_INPUT, lambda it: replace(it, sealed=flip(it.sealed, 9)))
    network = a_network(context, parts, kind=altered)
    result = network.run(a_session(context))
    complaints = [it for it in network.answered[Stage.UNMASK].values() if isinstance(it, Complaint)]
    assert complaints == [Complaint((EIGHT[0],))]
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, EIGHT, context.bits))


@pytest.mark.parametrize("checked", [True, False])
def test_a_key_that_was_not_shared_is_noticed_and_would_give_a_wrong_sum(monkeypatch, checked):
    """A client that masks with one key and shares another spoils the sum, but not in silence."""
    context = a_context(200)
    parts = summands(EIGHT, context)
    network = a_network(context, parts)
    real, calls = one_shot_client.key_to_field, []

    def another(key):
        calls.append(1)
        return real(key if len(calls) > 1 else one_shot_client.fresh_key())

    monkeypatch.setattr(one_shot_client, "key_to_field", another)
    if checked:
        with pytest.raises(SumAborted, match="the sum does not decode"):
            network.run(a_session(context))
        return
    monkeypatch.setattr(lattice, "_check_squares", lambda *_, **__: None)
    result = network.run(a_session(context))
    assert np.mean(result.groups[0].total == plain_sum(parts, EIGHT, context.bits)) < 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda it: replace(it, low=it.low[:-1]),
        lambda it: replace(it, low=it.low.astype(np.uint16)),
        lambda it: replace(it, high=np.zeros(6, np.uint8)),
        lambda it: replace(it, nonce=it.nonce[:-1]),
        lambda it: replace(it, sealed=it.sealed[:-1]),
        lambda it: ShareSum(it.low),
    ],
)
def test_an_upload_of_the_wrong_form_counts_as_silence(change):
    context = a_context()
    parts = summands(EIGHT, context)
    network = a_network(context, parts, kind=tampered(Stage.MASKED_INPUT, change))
    result = network.run(a_session(context))
    assert result.members == EIGHT[1:]
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, EIGHT[1:], context.bits))
