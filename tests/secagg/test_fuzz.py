"""Whoever drops and whenever: the exact sum over the survivors, or a clean abort, and nothing else.

Each schedule draws the cohort, the mode, the width, who goes silent at which trip, and whether its
masked input then comes after all, one trip too late. All secrets follow from a drawn seed, so that
a schedule that fails, fails again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secagg_modes import ADVERSARIES, residue_sum, stages_of
from secagg_network import Network, a_context
from secagg_replay import a_fixed_identity, drawing_from

from codex_ray.errors import SumAborted
from codex_ray.randomness import Stream
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import Ideal, SecAgg
from codex_ray.secagg.server import run_session
from codex_ray.secagg.trips import add_up
from codex_ray.secagg.unmask import tasks_for
from codex_ray.types import SessionContext, Stage, word_type

BITS = (16, 17, 20, 31, 32)
fuzzed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Schedule:
    """One session: its sizes and rules, its members, and when which of them goes silent."""

    plan: Plan
    members: tuple[int, ...]
    drops: dict[int, Stage]
    late: bool
    bits: int
    remember: bool
    seed: bytes

    @property
    def context(self) -> SessionContext:
        return replace(a_context(9), bits=self.bits)

    def silent_at(self, stage: Stage) -> set[int]:
        return {one for one, dropped in self.drops.items() if dropped <= stage}


@st.composite
def schedules(draw, plans: Callable[[int, str, str], st.SearchStrategy[Plan]]) -> Schedule:
    count = draw(st.integers(3, 20))
    ids = st.sets(st.integers(0, 60), min_size=count, max_size=count)
    members = tuple(sorted(draw(ids)))
    adversary = draw(st.sampled_from(ADVERSARIES))
    plan = draw(plans(count, adversary, draw(st.sampled_from(["session", "enrolled"]))))
    # Mostly few dropouts, because a schedule with many tests no more than that it aborts.
    most = draw(st.sampled_from([0, 1, 2, count // 4, count // 2, count]))
    drops = st.dictionaries(
        st.sampled_from(members), st.sampled_from(stages_of(adversary)), max_size=most
    )
    return Schedule(
        plan,
        members,
        draw(drops),
        draw(st.booleans()),
        draw(st.sampled_from(BITS)),
        draw(st.booleans()),
        draw(st.binary(min_size=4, max_size=4)),
    )


def complete_plans(count: int, adversary: str, keys: str) -> st.SearchStrategy[Plan]:
    def plan_of(corrupt: float) -> Plan:
        protocol = SecAgg(
            adversary=adversary, keys=keys, assumed_corrupt=corrupt, assumed_dropout=0.0
        )
        return protocol.plan(count)

    return st.sampled_from([0.0, 0.05, 0.2, 0.45]).map(plan_of)


@st.composite
def sparse_plans(draw, count: int, adversary: str, keys: str) -> Plan:
    """Any sizes that make sense, also those that are too small to protect anyone."""
    degree = draw(st.integers(1, max(1, (count - 2) // 2))) * 2
    threshold = draw(st.integers(2, min(degree, count - 1)))
    minimum = draw(st.integers(2, count))
    return Plan(count, min(degree, count - 1), threshold, minimum, adversary, keys)


class Line(Network):
    """A network on which what came too late still comes, in the inbox of every later trip."""

    def run(self, session):
        outbox = next(session)
        while True:
            inbox = dict(self.late)
            for one, request in outbox.items():
                self.sent.setdefault(request.stage, {})[one] = request
                reply = self._deliver(one, request)
                if reply is not None:
                    inbox[one] = reply
            try:
                outbox = session.send(inbox)
            except StopIteration as end:
                return end.value


@cache
def identity(one: int):
    return a_fixed_identity(one)


def outcome(schedule: Schedule):
    """What the session returns (None if it aborts), its summands, and the network it went over."""
    enrolment = Enrolment({one: identity(one).public for one in schedule.members})
    shared = SharedWork(remember=schedule.remember)
    stream = Stream(hashlib.sha256(schedule.seed).digest())
    kind, top = word_type(schedule.bits), (1 << schedule.bits) - 1
    parts = {
        one: np.frombuffer(stream.bytes(9 * kind.itemsize), dtype=kind) & kind.type(top)
        for one in schedule.members
    }
    with drawing_from(stream.bytes):
        clients = {
            one: SecAggClient(
                one,
                schedule.context,
                parts[one].copy(),
                plan=lambda _: schedule.plan,
                membership=Membership(identity(one), enrolment),
                shared=shared,
            )
            for one in schedule.members
        }
        network = (Line if schedule.late else Network)(clients, schedule.drops)
        session = run_session(
            schedule.members, schedule.context, schedule.plan, enrolment=enrolment
        )
        try:
            return network.run(session), parts, network
        except SumAborted:
            return None, parts, network


def check(schedule: Schedule):
    """The result, after checking that it is exact and that no client had to refuse anything."""
    result, parts, network = outcome(schedule)
    assert not network.refusals
    if result is None:
        return None
    (group,) = result.groups
    assert group.members == result.members == tuple(sorted(set(result.members)))
    assert not set(result.members) & schedule.silent_at(Stage.MASKED_INPUT)
    assert len(result.members) >= schedule.plan.minimum
    assert group.total.dtype == word_type(schedule.bits)
    np.testing.assert_array_equal(group.total, residue_sum(parts, result.members, schedule.context))
    return result


def complete_case(schedule: Schedule) -> None:
    """On the complete graph the counts alone decide, and they are those of the ideal sum."""
    result = check(schedule)
    staying = set(schedule.members) - schedule.silent_at(Stage.UNMASK)
    assert (result is not None) == (len(staying) >= schedule.plan.minimum)
    if result:
        masked = set(schedule.members) - schedule.silent_at(Stage.MASKED_INPUT)
        assert set(result.members) == masked


def sparse_case(schedule: Schedule) -> None:
    """On a sparse graph it also takes neighbours: without dropouts there is a sum."""
    assert check(schedule) or schedule.drops


@settings(fuzzed, max_examples=60)
@given(schedules(complete_plans))
def test_complete_graphs(schedule):
    complete_case(schedule)


@settings(fuzzed, max_examples=60)
@given(schedules(sparse_plans))
def test_sparse_graphs(schedule):
    sparse_case(schedule)


@pytest.mark.slow
@settings(fuzzed, max_examples=5_000)
@given(schedules(complete_plans))
def test_five_thousand_complete_graphs(schedule):
    complete_case(schedule)


@pytest.mark.slow
@settings(fuzzed, max_examples=5_000)
@given(schedules(sparse_plans))
def test_five_thousand_sparse_graphs(schedule):
    sparse_case(schedule)


@settings(fuzzed, max_examples=30)
@given(schedules(complete_plans))
def test_the_ideal_sum_is_the_same_to_the_bit(schedule):
    """The oracle keeps to the last two trips; where both give a sum they give the same."""
    result, parts, _ = outcome(schedule)
    ideal = Ideal(assumed_corrupt=0.0)
    silent = {
        one: Stage.MASKED_INPUT if stage < Stage.MASKED_INPUT else stage
        for one, stage in schedule.drops.items()
    }
    context = schedule.context
    clients = {one: ideal.client(one, context, parts[one].copy()) for one in schedule.members}
    try:
        want = Network(clients, silent).run(ideal.session(schedule.members, context))
    except SumAborted:
        assert result is None
        return
    if result is not None:
        assert result.members == want.members
        np.testing.assert_array_equal(result.groups[0].total, want.groups[0].total)


def forget_the_dropped(owners, answers, **others):
    """The work of a server that forgets what dropped clients left over."""
    return tasks_for({one: it for one, it in owners.items() if not it.escrow}, answers, **others)


def test_a_server_that_forgets_a_mask_is_found_out(monkeypatch):
    one = Schedule(
        SecAgg().plan(6), tuple(range(6)), {1: Stage.MASKED_INPUT}, True, 32, True, b"seed"
    )
    complete_case(one)
    monkeypatch.setattr("codex_ray.secagg.server.tasks_for", forget_the_dropped)
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        complete_case(one)


def test_a_server_that_takes_late_inputs_is_found_out(monkeypatch):
    """The same session, were a dropped client's masked input added after all."""
    one = Schedule(
        SecAgg().plan(6), tuple(range(6)), {1: Stage.MASKED_INPUT}, True, 32, True, b"seed"
    )
    _, parts, network = outcome(one)
    late = network.late[1].words
    assert late.shape == (9,) and not np.array_equal(late, parts[1])
    monkeypatch.setattr(
        "codex_ray.secagg.server.add_up", lambda words, context: add_up([*words, late], context)
    )
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        complete_case(one)
