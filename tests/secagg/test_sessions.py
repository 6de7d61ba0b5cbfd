"""Masked sums equal the ideal sum to the bit, in every mode and width, or abort as it would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_modes import ADVERSARIES, MODES, every_mode, mode_name, residue_sum, residues, stages_of
from secagg_network import (
    a_context,
    a_network,
    a_planned_network,
    a_planned_session,
    a_session,
    an_enrolment,
    plain_sum,
    summands,
)

from codex_ray.errors import SumAborted
from codex_ray.secagg.graph import draw_graph
from codex_ray.secagg.messages import AdvertisedKeys
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus
from codex_ray.secagg.roster import Opening
from codex_ray.types import Stage, word_type

TEN = tuple(range(0, 30, 3))
EVERY_STAGE = [
    pytest.param(protocol, stage, id=f"{mode_name(protocol)}-{stage.name}")
    for protocol in MODES
    for stage in stages_of(protocol.adversary)
]


def outcome(protocol, members, parts, drops, context=None):
    """What the protocol returns under that schedule, or None if it aborts."""
    context = context or a_context(next(iter(parts.values())).size)
    network = a_network(protocol, members, context, parts, drops=drops)
    try:
        return network.run(a_session(protocol, members, context))
    except SumAborted:
        return None


# Dropouts.


@pytest.mark.parametrize(("protocol", "stage"), EVERY_STAGE)
def test_ten_clients_survive_four_dropouts_and_not_five(protocol, stage):
    parts = summands(TEN, 20)
    result = outcome(protocol, TEN, parts, dict.fromkeys(TEN[:4], stage))
    assert result.members == (TEN if stage > Stage.MASKED_INPUT else TEN[4:])
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:5], stage)) is None


@pytest.mark.parametrize("stage", [Stage.MASKED_INPUT, Stage.UNMASK])
def test_the_ideal_sum_survives_as_many(stage):
    parts = summands(TEN, 20)
    result = outcome(Ideal(), TEN, parts, dict.fromkeys(TEN[:4], stage))
    assert result.members == (TEN if stage == Stage.UNMASK else TEN[4:])
    assert outcome(Ideal(), TEN, parts, dict.fromkeys(TEN[:5], stage)) is None


@pytest.mark.parametrize(("protocol", "stage"), EVERY_STAGE)
def test_an_abort_says_where_and_how_many(protocol, stage):
    context = a_context(5)
    network = a_network(
        protocol, TEN, context, summands(TEN, 5), drops=dict.fromkeys(TEN[:5], stage)
    )
    # Without five holders of their shares, those who shared keys cannot go on either.
    left = 0 if stage == Stage.SHARE_KEYS else 5
    with pytest.raises(SumAborted, match=f"{stage.name.lower()}: {left} clients .* 6 are needed"):
        network.run(a_session(protocol, TEN, context))
    assert not network.refusals


def test_a_higher_threshold_needs_more_survivors():
    parts, protocol = summands(TEN, 5), SecAgg(threshold=8)
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:2], Stage.MASKED_INPUT))
    assert outcome(protocol, TEN, parts, dict.fromkeys(TEN[:3], Stage.MASKED_INPUT)) is None


@every_mode
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
def test_masks_recovered_counts_the_pairs_that_a_drop_left_behind(protocol, drops, recovered):
    assert outcome(protocol, TEN, summands(TEN, 5), drops).masks_recovered == recovered


@pytest.mark.parametrize("kind", [Ideal, SecAgg, SecAggPlus])
def test_sums_of_fewer_than_three_are_refused(kind):
    for members in ((), (1,), (1, 2)):
        with pytest.raises(SumAborted, match=r"needs 3 clients|smallest_cohort is 3"):
            next(kind().session(members, a_context(3)))


# Sparse graphs.


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_a_sparse_sum_needs_the_minimum_at_the_unmask_trip_too(adversary):
    members, drops = tuple(range(16)), {3: Stage.UNMASK, 9: Stage.UNMASK}
    parts, context = summands(members, 7), a_context(7)
    for minimum in (14, 15):
        sizes = Plan(16, 12, 7, minimum, adversary)
        network = a_planned_network(sizes, members, context, parts, drops=drops)
        session = a_planned_session(sizes, members, context)
        if minimum == 14:
            assert network.run(session).members == members
        else:
            with pytest.raises(SumAborted, match="unmask: 14 clients can go on, 15 are needed"):
                network.run(session)


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_a_neighbourhood_too_thin_to_be_unmasked_stops_before_anyone_masks(adversary):
    """Five of six neighbours must stay; without two of them nobody around can go on."""
    members, context = tuple(range(8)), a_context(7)
    sizes = Plan(8, 6, 5, 5, adversary)
    drops = dict.fromkeys(members[:3], Stage.SHARE_KEYS)
    network = a_planned_network(sizes, members, context, summands(members, 7), drops=drops)
    with pytest.raises(SumAborted, match="share_keys: 0 clients can go on, 5 are needed"):
        network.run(a_planned_session(sizes, members, context))
    assert Stage.MASKED_INPUT not in network.sent and not network.refusals


@pytest.mark.parametrize("stage", [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS])
def test_who_cannot_be_unmasked_is_left_out_and_the_rest_goes_on(stage):
    """With enrolled keys the graph is known beforehand; four of six neighbours of one go."""
    members, context = tuple(range(24)), a_context(7)
    parts, sizes = summands(members, 7), Plan(24, 6, 3, 5, "semi_honest", "enrolled")
    seed = Opening(context, sizes, b"", an_enrolment(members).digest).graph_seed(b"")
    graph = draw_graph(members, seed, degree=6)
    # The nearest on the circle have most neighbours in common.
    nearest = sorted(graph[0], key=lambda peer: -len(set(graph[peer]) & set(graph[0])))[:4]
    network = a_planned_network(sizes, members, context, parts, drops=dict.fromkeys(nearest, stage))
    result = network.run(a_planned_session(sizes, members, context))
    assert result.members == tuple(sorted(set(members) - {0, *nearest}))
    assert 0 not in network.sent[Stage.MASKED_INPUT]
    assert (0 in network.sent[Stage.SHARE_KEYS]) == (stage == Stage.SHARE_KEYS)
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("keys", ["session", "enrolled"])
def test_a_found_sparse_graph_sums_a_hundred_clients(adversary, keys):
    members, protocol = tuple(range(100)), SecAggPlus(adversary=adversary, keys=keys)
    assert not protocol.plan(100).complete
    parts, stages = summands(members, 50), stages_of(adversary)
    drops = {one: stages[one % len(stages)] for one in range(len(stages) + 2)}
    result = outcome(protocol, members, parts, drops)
    lost = {one for one, stage in drops.items() if stage <= Stage.MASKED_INPUT}
    assert set(members) - set(result.members) == lost
    np.testing.assert_array_equal(result.groups[0].total, plain_sum(parts, result.members))
    assert result.masks_recovered > 0


# Words.

BITS = [16, 17, 20, 31, 32]
EVERY_KIND = [Clear(), Ideal(), SecAggPlus(), *MODES]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("protocol", EVERY_KIND, ids=lambda it: f"{it.kind}-{it.identified}")
def test_the_sum_is_the_plain_one_modulo_the_width(protocol, bits):
    context = replace(a_context(33), bits=bits)
    parts = residues(TEN, context)
    parts[TEN[4]][:] = (1 << bits) - 1  # The largest residue, and a sum that surely wraps.
    drops = {TEN[0]: Stage.MASKED_INPUT}
    result = outcome(protocol, TEN, parts, drops, context)
    assert result.members == TEN[1:]
    if protocol.kind == "clear":
        for group in result.groups:
            np.testing.assert_array_equal(group.total, parts[group.members[0]])
        return
    total = result.groups[0].total
    assert total.dtype == word_type(bits)
    np.testing.assert_array_equal(total, residue_sum(parts, result.members, context))


@every_mode
@pytest.mark.parametrize("bits", BITS)
def test_what_a_client_sends_fits_the_width_and_fills_it(protocol, bits):
    context = replace(a_context(4096), bits=bits)
    parts = {one: np.zeros(4096, dtype=word_type(bits)) for one in TEN}
    network = a_network(protocol, TEN, context, parts)
    network.run(a_session(protocol, TEN, context))
    for reply in network.answered[Stage.MASKED_INPUT].values():
        assert reply.words.dtype == word_type(bits) and reply.words.shape == (4096,)
        assert len(reply.to_frame()) == 12 + 4096 * (2 if bits == 16 else 4)
        # Of 4096 uniform residues the largest is in the top hundredth, but for 1 in 10^17.
        assert 0.99 * 2**bits < int(reply.words.max()) < 2**bits


@pytest.mark.parametrize("bits", [16, 20])
def test_masked_words_of_another_kind_count_as_silence(bits):
    context = replace(a_context(5), bits=bits)
    other = np.uint32 if bits == 16 else np.uint16
    parts = residues(TEN, context)
    network = a_network(SecAgg(), TEN, context, parts)
    network.tamper = lambda one, reply: (
        replace(reply, words=reply.words.astype(other))
        if one == 0 and reply.stage == Stage.MASKED_INPUT
        else reply
    )
    result = network.run(a_session(SecAgg(), TEN, context))
    assert result.members == TEN[1:] and result.masks_recovered == 9
    np.testing.assert_array_equal(
        result.groups[0].total, residue_sum(parts, result.members, context)
    )


def test_one_bit_more_than_the_width_is_taken_modulo_it():
    """Whoever encodes sees to it that nothing wraps; what does is not carried into other words."""
    context = replace(a_context(3), bits=17)
    parts = {one: np.full(3, 2**17 + one, dtype=np.uint32) for one in TEN}
    result = outcome(SecAgg(), TEN, parts, {}, context)
    assert result.groups[0].total.tolist() == [sum(TEN)] * 3


# More than one session.


def test_clear_shows_each_summand_and_counts_the_silent_out():
    parts = summands(TEN, 5)
    result = outcome(Clear(), TEN, parts, {3: Stage.MASKED_INPUT})
    assert result.members == tuple(one for one in TEN if one != 3)
    for group in result.groups:
        assert len(group.members) == 1
        np.testing.assert_array_equal(group.total, parts[group.members[0]])
    assert outcome(Clear(), TEN, parts, dict.fromkeys(TEN, Stage.TRAIN)) is None


def test_replies_of_strangers_are_ignored():
    context = a_context(5)
    network = a_network(SecAgg(), TEN, context, summands(TEN, 5))
    session = SecAgg().session(TEN, context, enrolment=an_enrolment(TEN))
    outbox = next(session)
    inbox = {one: network.clients[one].answer(it) for one, it in outbox.items()}
    outbox = session.send(inbox | {99: AdvertisedKeys(b"c" * 32, b"n" * 32, b"s" * 64)})
    assert set(outbox) == set(TEN)
    assert all(99 not in it.adverts for it in outbox.values())


@every_mode
def test_two_sessions_of_one_context_mask_the_same_summand_differently(protocol):
    """Also with enrolled keys, and for a retry that forgot to raise its attempt number."""
    context, seen = a_context(50), []
    parts = summands(TEN, 50)
    for _ in range(2):
        network = a_network(protocol, TEN, context, parts)
        network.run(a_session(protocol, TEN, context))
        seen.append(network.answered[Stage.MASKED_INPUT][0].words)
    assert np.count_nonzero(seen[0] == seen[1]) <= 2


def test_the_first_trip_is_the_same_for_all_and_new_each_time():
    requests = set()
    for _ in range(3):
        outbox = next(a_session(SecAgg(), TEN, a_context(5)))
        (frame,) = {request.to_frame() for request in outbox.values()}
        requests.add(frame)
    assert len(requests) == 3


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_a_session_takes_the_trips_of_its_adversary(adversary):
    protocol, context = SecAgg(adversary=adversary), a_context(5)
    network = a_network(protocol, TEN, context, summands(TEN, 5))
    network.run(a_session(protocol, TEN, context))
    assert list(network.sent) == stages_of(adversary)


def test_each_adversary_costs_a_trip():
    assert [len(stages_of(adversary)) for adversary in ADVERSARIES] == [4, 5, 6]
