"""Masked sums equal the ideal sum to the bit, whoever drops and whenever, or abort as it would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_network import (
    Network,
    a_context,
    a_network,
    a_planned_network,
    plain_sum,
    summands,
)

from codex_ray.errors import SumAborted
from codex_ray.secagg.graph import draw_graph
from codex_ray.secagg.messages import AdvertisedKeys, MaskedInput, SealedShares, UnmaskShares
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus
from codex_ray.secagg.server import run_session
from codex_ray.types import Stage

TEN = tuple(range(0, 30, 3))
STAGES = [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.UNMASK]


def outcome(protocol, members, parts, drops):
    """What the protocol returns under that schedule, or None if it aborts."""
    dimension = next(iter(parts.values())).size
    context = a_context(dimension)
    network = a_network(protocol, members, context, parts, drops=drops)
    try:
        return network.run(protocol.session(members, context))
    except SumAborted:
        return None


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ideal_secagg_and_secagg_plus_agree_to_the_bit(data):
    members = tuple(sorted(data.draw(st.sets(st.integers(0, 2**31), min_size=3, max_size=10))))
    drops = data.draw(st.dictionaries(st.sampled_from(members), st.sampled_from(STAGES)))
    parts = summands(members, 7)
    want = outcome(Ideal(), members, parts, drops)
    for protocol in (SecAgg(), SecAggPlus()):
        got = outcome(protocol, members, parts, drops)
        assert (got is None) == (want is None)
        if got is not None:
            assert got.members == want.members
            np.testing.assert_array_equal(got.groups[0].total, want.groups[0].total)
            np.testing.assert_array_equal(got.groups[0].total, plain_sum(parts, want.members))
    staying = {one for one in members if drops.get(one, Stage.DEBUG) > Stage.MASKED_INPUT}
    assert want is None or set(want.members) == staying


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_sparse_graph_gives_the_right_sum_or_none(data):
    members = tuple(range(16))
    drops = data.draw(
        st.dictionaries(st.sampled_from(members), st.sampled_from(STAGES), max_size=5)
    )
    parts, context = summands(members, 7), a_context(7, round=data.draw(st.integers(0, 9)))
    sizes = Plan(16, 8, 5, 9)
    network = a_planned_network(sizes, members, context, parts, drops=drops)
    try:
        result = network.run(run_session(members, context, sizes))
    except SumAborted:
        assert drops
        return
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))


def test_a_sparse_sum_needs_the_minimum_at_the_unmask_trip_too():
    members, drops = tuple(range(16)), {3: Stage.UNMASK, 9: Stage.UNMASK}
    parts, context = summands(members, 7), a_context(7)
    for minimum in (14, 15):
        sizes = Plan(16, 12, 7, minimum)
        network = a_planned_network(sizes, members, context, parts, drops=drops)
        session = run_session(members, context, sizes)
        if minimum == 14:
            assert network.run(session).members == members
        else:
            with pytest.raises(SumAborted, match="unmask: 14 clients can go on, 15 are needed"):
                network.run(session)


@pytest.mark.parametrize("stage", STAGES[:2])
def test_a_neighbourhood_too_thin_to_be_unmasked_stops_before_anyone_masks(stage):
    members, context = tuple(range(16)), a_context(7)
    parts, around = summands(members, 7), draw_graph(members, context, degree=8)[0]
    sizes, drops = Plan(16, 8, 5, 9), dict.fromkeys(around[:4], stage)
    network = a_planned_network(sizes, members, context, parts, drops=drops)
    with pytest.raises(SumAborted, match=stage.name.lower()):
        network.run(run_session(members, context, sizes))
    assert Stage.MASKED_INPUT not in network.sent


def test_a_found_sparse_graph_sums_a_hundred_clients():
    members, protocol = tuple(range(100)), SecAggPlus()
    assert not protocol.plan(100).complete
    parts = summands(members, 50)
    drops = {one: STAGES[one % 4] for one in range(8)}
    result = outcome(protocol, members, parts, drops)
    assert set(members) - set(result.members) == {0, 1, 2, 4, 5, 6}
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    assert result.masks_recovered > 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("protocol", [SecAgg(), SecAggPlus(), Ideal()], ids=lambda it: it.kind)
def test_ten_clients_survive_four_dropouts_and_not_five(protocol, stage):
    parts = summands(TEN, 20)
    result = outcome(protocol, TEN, parts, dict.fromkeys(TEN[:4], stage))
    assert result.members == (TEN if stage == Stage.UNMASK else TEN[4:])
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:5], stage)) is None


def test_an_abort_says_where_and_how_many():
    parts, context = summands(TEN, 5), a_context(5)
    network = a_network(
        SecAgg(), TEN, context, parts, drops=dict.fromkeys(TEN[:5], Stage.MASKED_INPUT)
    )
    with pytest.raises(SumAborted, match="masked_input: 5 clients can go on, 6 are needed"):
        network.run(SecAgg().session(TEN, context))


def test_a_higher_threshold_needs_more_survivors():
    parts, protocol = summands(TEN, 5), SecAgg(threshold=8)
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:2], Stage.MASKED_INPUT))
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:3], Stage.MASKED_INPUT)) is None


@pytest.mark.parametrize(
    ("drops", "recovered"),
    [
        ({}, 0),
        ({0: Stage.ADVERTISE_KEYS}, 0),
        ({0: Stage.SHARE_KEYS}, 0),
        ({0: Stage.MASKED_INPUT}, 9),
        # The pair of two dropped clients is in no masked input.
        ({0: Stage.MASKED_INPUT, 27: Stage.MASKED_INPUT}, 16),
        ({0: Stage.UNMASK}, 0),
    ],
)
def test_masks_recovered_counts_the_pairs_that_a_drop_left_behind(drops, recovered):
    assert outcome(SecAgg(), TEN, summands(TEN, 5), drops).masks_recovered == recovered


@pytest.mark.parametrize("kind", [Ideal, SecAgg, SecAggPlus])
def test_sums_of_fewer_than_three_are_refused(kind):
    for members in ((), (1,), (1, 2)):
        with pytest.raises(SumAborted, match="needs 3 clients"):
            next(kind().session(members, a_context(3)))


def test_clear_shows_each_summand_and_counts_the_silent_out():
    parts = summands(TEN, 5)
    result = outcome(Clear(), TEN, parts, {3: Stage.MASKED_INPUT})
    assert result.members == tuple(one for one in TEN if one != 3)
    for group in result.groups:
        assert len(group.members) == 1
        np.testing.assert_array_equal(group.total, parts[group.members[0]])
    assert outcome(Clear(), TEN, parts, dict.fromkeys(TEN, Stage.TRAIN)) is None


@dataclass
class Tampering(Network):
    """A network that changes some replies on their way to the server."""

    changes: dict = field(default_factory=dict)

    def tamper(self, one, reply):
        change = self.changes.get((one, type(reply)))
        return change(reply) if change else reply


def tampered_outcome(changes, drops=None):
    parts, context = summands(TEN, 5), a_context(5)
    clients = {one: SecAgg().client(one, context, parts[one]) for one in TEN}
    network = Tampering(clients, drops or {}, changes=changes)
    result = network.run(SecAgg().session(TEN, context))
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    return result, network


def flip(share):
    return bytes([share[0] ^ 1]) + share[1:]


def wrong_shares(reply):
    return UnmaskShares({owner: flip(share) for owner, share in reply.shares.items()})


@pytest.mark.parametrize("liars", [TEN[:1], TEN[5:6], TEN[-1:], TEN[:2], TEN[3:5]])
def test_wrong_shares_are_noticed_and_worked_around(liars):
    changes = {(one, UnmaskShares): wrong_shares for one in liars}
    drops = {9: Stage.MASKED_INPUT} if 9 not in liars else {}
    result, _ = tampered_outcome(changes, drops)
    assert len(result.members) == 10 - len(drops)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: UnmaskShares(dict.fromkeys(it.shares, b"short")),
        lambda it: UnmaskShares(dict.fromkeys(it.shares, b"\xff" * 36)),
        lambda it: UnmaskShares({}),
    ],
)
def test_malformed_shares_are_left_out(change):
    tampered_outcome({(0, UnmaskShares): change}, {27: Stage.MASKED_INPUT})


def test_wrong_shares_without_spare_ones_abort():
    drops = dict.fromkeys(TEN[:4], Stage.UNMASK)
    with pytest.raises(SumAborted, match="do not fit together"):
        tampered_outcome({(27, UnmaskShares): wrong_shares}, drops)


def test_shares_held_back_abort_with_the_count():
    drops = dict.fromkeys(TEN[:4], Stage.UNMASK)
    held_back = {(27, UnmaskShares): lambda _: UnmaskShares({})}
    with pytest.raises(SumAborted, match="5 shares of client 0 came of 6 needed"):
        tampered_outcome(held_back, drops)


def test_a_tampered_envelope_costs_its_receiver_only():
    change = {(0, SealedShares): lambda it: replace(it, sealed=it.sealed | {3: flip(it.sealed[3])})}
    result, network = tampered_outcome(change)
    assert result.members == tuple(one for one in TEN if one != 3)
    assert set(network.refusals) == {3} and "do not open" in network.refusals[3]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (AdvertisedKeys, lambda it: replace(it, mask=b"short")),
        (AdvertisedKeys, lambda _: UnmaskShares({})),
        (SealedShares, lambda it: replace(it, sealed={3: it.sealed[3]})),
        (MaskedInput, lambda it: MaskedInput(it.words[:-1])),
    ],
)
def test_a_malformed_reply_counts_as_a_drop(kind, change):
    result, _ = tampered_outcome({(0, kind): change})
    assert result.members == TEN[1:]


def test_replies_of_strangers_are_ignored():
    parts, context = summands(TEN, 5), a_context(5)
    network = a_network(SecAgg(), TEN, context, parts)
    session = SecAgg().session(TEN, context)
    outbox = next(session)
    inbox = {one: network.clients[one].answer(it) for one, it in outbox.items()}
    outbox = session.send(inbox | {99: AdvertisedKeys(b"c" * 32, b"m" * 32)})
    assert set(outbox) == set(TEN)
    assert all(99 not in it.keys for it in outbox.values())


def test_two_sessions_mask_the_same_summand_differently():
    parts = summands(TEN, 50)
    seen = []
    for round_ in (0, 1):
        context = a_context(50, round=round_)
        network = a_network(SecAgg(), TEN, context, parts)
        network.run(SecAgg().session(TEN, context))
        seen.append(network.answered[Stage.MASKED_INPUT][0].words)
    assert np.count_nonzero(seen[0] == seen[1]) <= 2
