"""Committee sizes are those of the published table where its rule holds, and never split in two."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ConfigError
from codex_ray.secagg.committee import (
    EVERYONE_UP_TO,
    LARGEST_COMMITTEE,
    draw_committee,
    plan_committee,
)
from codex_ray.secagg.parameters import Assumptions
from codex_ray.secagg.tails import fewest_in_sample, most_in_sample


def sizes(members, corrupt, dropout, adversary, *, packing):
    """m, T, R."""
    found = plan_committee(members, Assumptions(corrupt, dropout, adversary), packing=packing)
    return found.size, found.corrupt, found.threshold


SEMI_HONEST = [
    # corrupt, dropout, n = 1000 and n = 10 000 with packing 8, n = 1000 with packing 32
    (0.05, 0.05, (31, 14, 22), (33, 15, 23), (64, 19, 51)),
    (0.10, 0.10, (47, 23, 31), (49, 24, 32), (86, 31, 63)),
    (0.33, 0.05, (75, 53, 61), (82, 58, 66), (130, 79, 111)),
    (0.33, 0.33, (249, 128, 136), (316, 164, 172), (340, 162, 194)),
]


@pytest.mark.parametrize(("corrupt", "dropout", "small", "large", "packed"), SEMI_HONEST)
def test_semi_honest_rows(corrupt, dropout, small, large, packed):
    assert sizes(1_000, corrupt, dropout, "semi_honest", packing=8) == small
    assert sizes(10_000, corrupt, dropout, "semi_honest", packing=8) == large
    assert sizes(1_000, corrupt, dropout, "semi_honest", packing=32) == packed


QUORUM = [
    (0.05, 0.05, (36, 15, 26), (40, 17, 29), (64, 19, 51)),
    (0.10, 0.10, (69, 28, 49), (76, 31, 54), (86, 31, 63)),
    (0.33, 0.05, (101, 66, 84), (112, 73, 93), (130, 79, 111)),
    (0.20, 0.20, (230, 85, 158), (304, 113, 209), (230, 85, 158)),
]


def published_quorum(members, corrupt, dropout, *, packing):
    """The table's own rule: R = max(T + packing, floor((m + T)/2) + 1) answers."""
    marked, staying = round(corrupt * members), ceil((1 - Fraction(dropout)) * members)
    for size in range(packing, LARGEST_COMMITTEE):
        most = most_in_sample(members, marked, size, chance=2.0**-40)
        threshold = max(most + packing, (size + most) // 2 + 1)
        if threshold <= fewest_in_sample(members, staying, size, chance=2.0**-20):
            return size, most, threshold
    raise AssertionError


@pytest.mark.parametrize(("corrupt", "dropout", "small", "large", "packed"), QUORUM)
def test_quorum_rows(corrupt, dropout, small, large, packed):
    assert published_quorum(1_000, corrupt, dropout, packing=8) == small
    assert published_quorum(10_000, corrupt, dropout, packing=8) == large
    assert published_quorum(1_000, corrupt, dropout, packing=32) == packed
    # Where nothing is packed the rule holds what it promises, and its sizes are ours.
    assert sizes(1_000, corrupt, dropout, "semi_malicious", packing=1) == small
    assert sizes(10_000, corrupt, dropout, "semi_malicious", packing=1) == large


@pytest.mark.parametrize(("corrupt", "dropout", "small", "large", "packed"), QUORUM)
def test_the_published_rule_does_not_hide_a_second_claim_if_it_packs(
    corrupt, dropout, small, large, packed
):
    for packing, (size, most, threshold) in [(8, small), (8, large), (32, packed)]:
        second = (size + most) // 2
        assert second > threshold - packing  # answers beyond these tell: see test_packed_shamir
        ours = plan_committee(1_000, Assumptions(corrupt, dropout), packing=packing)
        assert (ours.size + ours.corrupt) // 2 <= ours.threshold - packing


@settings(deadline=None, max_examples=80)
@given(
    st.integers(3, 3_000),
    st.floats(0, 0.3),
    st.floats(0, 0.2),
    st.sampled_from(["semi_malicious", "malicious"]),
    st.integers(1, 8),
)
def test_two_claims_never_both_get_more_than_what_stays_hidden(n, corrupt, dropout, who, packing):
    try:
        plan = plan_committee(n, Assumptions(corrupt, dropout, who), packing=packing)
    except ConfigError:
        return
    assert 2 * (plan.threshold - plan.packing + 1) > plan.size + plan.corrupt
    assert plan.corrupt <= plan.threshold - plan.packing
    assert plan.packing <= plan.threshold <= plan.size <= n
    assert n > EVERYONE_UP_TO or plan.size == n
    assert plan.minimum > (n + corrupt * n) / 2 - 1


def test_a_server_that_may_try_cohorts_meets_a_larger_committee():
    trusted = plan_committee(1_000, Assumptions(0.05, 0.05))
    grinding = plan_committee(1_000, Assumptions(0.05, 0.05, "malicious"))
    assert (trusted.size, trusted.corrupt) == (36, 15)
    assert (grinding.size, grinding.corrupt) == (59, 32)


@pytest.mark.parametrize(("n", "marked", "drawn"), [(1000, 50, 36), (1000, 330, 101), (97, 5, 20)])
@pytest.mark.parametrize("bits", [20, 40, 104])
def test_tails_agree_with_whole_numbers(n, marked, drawn, bits):
    weights = [comb(marked, i) * comb(n - marked, drawn - i) for i in range(drawn + 1)]
    total = comb(n, drawn)
    chance = 2.0**-bits
    more = [Fraction(sum(weights[t + 1 :]), total) for t in range(drawn + 1)]
    fewer = [Fraction(sum(weights[:t]), total) for t in range(drawn + 1)]
    most = min(t for t in range(drawn + 1) if more[t] <= chance)
    fewest = max(t for t in range(drawn + 1) if fewer[t] <= chance)
    assert most_in_sample(n, marked, drawn, chance=chance) == most
    assert fewest_in_sample(n, marked, drawn, chance=chance) == fewest


def test_small_cohorts_are_their_own_committee():
    plan = plan_committee(10, Assumptions(0.05, 0.1))
    assert (plan.size, plan.corrupt, plan.threshold, plan.minimum) == (10, 1, 6, 6)


@pytest.mark.parametrize(
    ("members", "corrupt", "dropout"), [(10, 0.05, 0.6), (1_000, 0.45, 0.4), (2, 0.0, 0.0)]
)
def test_what_no_committee_keeps_is_refused(members, corrupt, dropout):
    with pytest.raises(ConfigError, match=r"lower|raise"):
        plan_committee(members, Assumptions(corrupt, dropout))


def test_the_draw_follows_from_seed_and_members_alone():
    members = tuple(range(0, 600, 3))
    drawn = draw_committee(members, b"s" * 32, size=20)
    assert drawn == draw_committee(members, b"s" * 32, size=20)
    assert len(set(drawn)) == 20 and set(drawn) <= set(members) and list(drawn) == sorted(drawn)
    assert drawn != draw_committee(members, b"t" * 32, size=20)
    assert drawn != draw_committee(members[:-1], b"s" * 32, size=20)


def test_everyone_is_drawn_equally_often():
    members, times = tuple(range(20)), 4_000
    seen = dict.fromkeys(members, 0)
    for at in range(times):
        for one in draw_committee(members, at.to_bytes(32, "little"), size=5):
            seen[one] += 1
    spread = sum((it - times / 4) ** 2 / (times / 4 * 0.75) for it in seen.values())
    assert spread * 19 / 20 < 49  # chi-square with 19 degrees of freedom, 2e-4
