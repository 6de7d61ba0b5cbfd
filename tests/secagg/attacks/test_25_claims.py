"""Attack 25: the server tells each committee member of other survivors.

Two whole claims that share nothing but corrupt members never both get R answers. But answers to
different claims add up as well, and a server may look for weights under which all but two sums
cancel. It finds them for two groups that some members hear of alone and others together, although
R > (m + T)/2: what holds it off is that no member answers for less than a majority, so no member
hears of either group alone. Three different claims or more fit together for no committee of up to
ten, by search; above that they are more equations than unknowns modulo 2^31 - 1.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from claims import learned, one_sum, weights
from one_shot_network import EIGHT, PLAN, a_context, plain_sum, spoken, summands, to_open

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.secagg.committee import plan_committee
from codex_ray.secagg.lattice import KEY_ELEMENTS, Masked, Modulus, keys_from_field, unmask
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.parameters import Assumptions
from codex_ray.secagg.shamir import PRIME

SPY = EIGHT[-1]
HONEST = tuple(range(1, 8))  # numbers on the committee of eight
DEGREES = PLAN.threshold - PLAN.corrupt


def claims_heard(plan, story, *, minimum=None):
    """The honest clients that each honest member gives a sum over; smaller claims it refuses."""
    fewest = plan.minimum if minimum is None else minimum
    return {member: set(some) - {SPY} for member, some in story.items() if len(some) >= fewest}


# How many claims fit together.


def far_apart(members, degrees):
    """Sets of members that could have heard of a group: enough of them, and pairs far apart."""
    sets = [frozenset(it) for size in range(degrees, len(members) + 1)
            for it in combinations(members, size)]  # fmt: skip
    apart = {
        one: [it for it in sets[at + 1 :] if len(one ^ it) >= degrees]
        for at, one in enumerate(sets)
    }
    return sets, apart


@pytest.mark.parametrize(
    ("size", "corrupt"),
    [(size, corrupt) for size in range(4, 8) for corrupt in range(1, size + 1)]
    + [(8, 8)]
    + [pytest.param(size, 1, marks=pytest.mark.slow) for size in (9, 10)],
)
def test_no_three_groups_are_told_apart(size, corrupt):
    """Whoever tells more than two apart tells three of them apart."""
    plan = plan_committee(size, Assumptions(0.05, 0.0))
    assert (plan.size, plan.corrupt) == (size, 1)
    degrees, tried = plan.threshold - plan.corrupt, 0
    members = [number for number in range(1, size + 1) if number != corrupt]
    _, apart = far_apart(members, degrees)
    for one, others in apart.items():
        for other, third in combinations(others, 2):
            if third in apart[other] and weights([one, other], degrees=degrees):
                tried += 1
                assert not weights([one, other, third], degrees=degrees)
    assert tried or size in (5, 7)


@pytest.mark.parametrize("size", [6, 8])
def test_two_groups_can_be_told_apart_only_if_some_members_hear_of_one_alone(size):
    plan = plan_committee(size, Assumptions(0.05, 0.0))
    degrees = plan.threshold - plan.corrupt
    sets, _ = far_apart(range(1, size), degrees)
    found = 0
    for one, other in combinations(sets, 2):
        rows = learned([one, other], degrees=degrees)
        if any(row not in ([1, 1], [1, 0], [0, 1]) for row in rows) or len(rows) > 1:
            found += 1
            assert one - other and other - one
    assert found > 20


@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
@pytest.mark.parametrize("corrupt", [0.05, 0.2, 0.3])
def test_and_two_disjoint_groups_are_never_large_enough(adversary, corrupt):
    for members in range(3, 400):
        try:
            plan = plan_committee(members, Assumptions(corrupt, 0.0, adversary))
        except ConfigError:
            continue
        conspiring = int(corrupt * members)
        assert 2 * (plan.minimum - conspiring) > members - conspiring


# Claims of every kind, by what they would tell.


@pytest.mark.parametrize("split", range(8))
def test_two_claims_tell_one_sum_at_most(split):
    story = {at: EIGHT if at <= split else EIGHT[1:] for at in HONEST}
    known = one_sum(claims_heard(PLAN, story), degrees=DEGREES)
    assert known in ((), EIGHT[:-1], EIGHT[1:-1])


def test_mutation_with_one_answer_fewer_two_claims_tell_their_difference():
    story = {at: EIGHT if at <= 4 else EIGHT[1:] for at in HONEST}
    assert one_sum(claims_heard(PLAN, story), degrees=DEGREES - 1) is None


def drawn_stories(count, draw):
    """Each member is told one of a few tales, in which whoever is in two may be in a third."""
    for _ in range(count):
        tales = [{one for one in EIGHT if draw.random() < 0.7} for _ in range(draw.choice((2, 3)))]
        yield {at: draw.choice(tales) for at in HONEST}


def test_tales_at_random_tell_one_sum_at_most():
    draw, opened = random.Random(3), 0
    for story in drawn_stories(400, draw):
        known = one_sum(claims_heard(PLAN, story), degrees=DEGREES)
        assert known is not None
        assert not known or len(known) >= PLAN.minimum - 1
        opened += bool(known)
    assert opened > 20  # Some tales were told to enough members.


def test_mutation_tales_below_a_majority_tell_more():
    draw, found = random.Random(3), []
    for _ in range(400):
        half = set(draw.sample(EIGHT, 4))
        tales = (half, set(EIGHT) - half, EIGHT)
        story = {at: draw.choice(tales) for at in HONEST}
        assert one_sum(claims_heard(PLAN, story), degrees=DEGREES) is not None
        found.append(one_sum(claims_heard(PLAN, story, minimum=4), degrees=DEGREES))
    assert None in found


def test_the_client_counts_the_majority_as_it_stands_here():
    context = a_context()
    request, clients, uploads = spoken(context, summands(EIGHT, context))
    member = request.committee[0]
    for count in range(1, 9):
        asking = to_open(request, uploads, EIGHT[:count], member)
        if count >= PLAN.minimum:
            clients[member]._check_survivors(asking)
        else:
            with pytest.raises(ProtocolError, match="are needed"):
                clients[member]._check_survivors(asking)


# The attack on the two groups, carried out.

LEFT, BOTH, RIGHT = (1, 2), (3, 4, 5), (6, 7)
FIRST, SECOND = EIGHT[:4], EIGHT[4:]
"""Half of the clients each."""
REACH = 24
"""Coefficients of a sum of four keys are smaller, but for 2^-30."""


def overlapping(context, parts, *, plan):
    """Members left hear of the first half, right of the second, between them of both.

    The spy is member 8. Returns both sums, or raises where a member refuses.
    """
    request, clients, uploads = spoken(context, parts, plan=plan)
    assert request.committee == EIGHT
    told = dict.fromkeys(LEFT, FIRST) | dict.fromkeys(BOTH, EIGHT) | dict.fromkeys(RIGHT, SECOND)
    answers = {
        at: clients[EIGHT[at - 1]].answer(to_open(request, uploads, some, EIGHT[at - 1]))
        for at, some in told.items()
    }
    spy = {
        group: clients[SPY]._open(to_open(request, uploads, group, SPY)).share.astype(np.int64)
        for group in (FIRST, SECOND)
    }
    combined, factors = cancelled(answers, spy)
    keys = apart(combined, *factors)
    modulus = Modulus.of_sum(8, context.bits)
    sums = []
    for group, key in zip((FIRST, SECOND), keys, strict=True):
        total = Masked.nothing(context.dimension, modulus)
        for one in group:
            total.add(uploads[one].low, uploads[one].high)
        sums.append(unmask(total, keys_from_field(key), context=context, modulus=modulus, summed=4))
    return sums


def cancelled(answers, spy):
    """A combination b S + c T of the two sums of keys [1024] modulo the prime, and b and c."""
    hearing = {FIRST: (*LEFT, *BOTH), SECOND: (*BOTH, *RIGHT)}
    (found,) = weights([frozenset(it) for it in hearing.values()], degrees=DEGREES)
    of = {at: value * pow(at - 8, -1, PRIME) % PRIME for at, value in found.items()}
    combined = np.zeros(KEY_ELEMENTS, dtype=np.int64)
    for at, reply in answers.items():
        combined = (combined + of[at] * reply.share.astype(np.int64)) % PRIME
    factors = []
    for group, members in hearing.items():
        eighth = sum(found[at] for at in members) * pow(8, -1, PRIME) % PRIME
        seen = (sum(of[at] for at in members) + eighth) % PRIME
        combined = (combined - seen * spy[group]) % PRIME
        factors.append(-eighth % PRIME)
    return combined, factors


def apart(combined, first, second):
    """The two sums of keys, from their combination and because both are small."""
    small = np.arange(-REACH, REACH + 1)
    guesses = (small[:, None] + (small[None] << 15)).reshape(-1)  # what an element can be
    norms = (small[:, None] ** 2 + small[None] ** 2).reshape(-1)
    found = np.empty((2, combined.size), dtype=np.int64)
    share = pow(second, -1, PRIME)
    for column, value in enumerate(combined):
        rest = (int(value) - first * guesses % PRIME) % PRIME * share % PRIME
        rest = np.where(rest > PRIME // 2, rest - PRIME, rest)
        low = ((rest + (1 << 14)) & 0x7FFF) - (1 << 14)
        high = (rest - low) >> 15
        fits = (abs(low) <= REACH) & (abs(high) <= REACH)
        size = np.where(fits, norms + low**2 + high**2, 1 << 40)
        best = int(np.argmin(size))
        found[:, column] = guesses[best], rest[best]
    return found


def test_overlapping_claims_of_a_half_each_are_refused():
    context = a_context(64)
    with pytest.raises(ProtocolError, match="4 survivors, 5 are needed"):
        overlapping(context, summands(EIGHT, context), plan=PLAN)


def test_mutation_with_half_as_the_minimum_they_open_two_sums():
    """The threshold is the same: the quorum alone does not make the sum the only one."""
    context = a_context(64)
    parts = summands(EIGHT, context)
    sums = overlapping(context, parts, plan=replace(PLAN, minimum=4))
    for group, got in zip((FIRST, SECOND), sums, strict=True):
        np.testing.assert_array_equal(got, plain_sum(parts, group, context.bits))


def test_mutation_without_a_minimum_a_member_answers_for_anything(monkeypatch):
    monkeypatch.setattr(OneShotClient, "_check_survivors", lambda *_: None)
    context = a_context(64)
    parts = summands(EIGHT, context)
    sums = overlapping(context, parts, plan=PLAN)
    np.testing.assert_array_equal(sums[0], plain_sum(parts, FIRST, context.bits))
