"""Degree and threshold match the production finder's table, fast; the impossible is refused.

The finder works in floats. Here its tails are computed again in integers, at 2^-40 and at 2^-104.
"""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest

from codex_ray.errors import ConfigError
from codex_ray.secagg import parameters
from codex_ray.secagg.parameters import (
    LARGEST_COHORT,
    Assumptions,
    choose_graph,
    find_degree,
    plan,
    thresholds,
)
from codex_ray.secagg.protocols import SecAggPlus

VECTORS = Path(__file__).parents[1] / "vectors" / "graph_parameters.csv"
ROWS = list(csv.DictReader(VECTORS.open()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_rows_of_the_production_finder(row):
    chosen = choose_graph(
        int(row["cohort"]),
        corrupt_fraction=float(row["corrupt_fraction"]),
        dropout_fraction=float(row["dropout_fraction"]),
        model=row["model"],
    )
    assert (chosen.degree, chosen.threshold) == (int(row["degree"]), int(row["threshold"]))


def test_there_are_fourteen_rows():
    assert len(ROWS) == 14


FRACTIONS = [
    (0.05, 0.05), (0.05, 0.1), (0.1, 0.1), (0.05, 0.33),
    (0.1, 0.3), (0.2, 0.2), (0.33, 0.05), (0.33, 0.33),
]  # fmt: skip
TABLES = {
    "semi_honest": {
        100: "12/6 16/6 22/11 28/6 34/11 40/21 34/29 68/34",
        300: "24/14 28/14 36/21 52/16 66/26 74/41 60/47 162/85",
        1_000: "30/17 36/19 48/27 72/24 88/36 98/54 78/60 286/150",
        10_000: "34/20 42/22 54/31 86/29 108/44 122/67 92/70 422/221",
        100_000: "36/21 46/23 58/33 96/32 122/49 134/73 102/77 480/251",
    },
    "semi_malicious": {
        100: "16/11 26/16 32/22 72/39 72/42 62/42 42/37 -",
        1_000: "52/37 78/52 96/67 398/223 414/247 302/206 132/109 -",
        10_000: "62/44 96/64 122/85 746/420 778/465 482/328 178/146 -",
    },
}
"""Degree/threshold for each model and cohort, in the order of FRACTIONS; - where no graph will do
that is much sparser than the complete one."""


@pytest.mark.parametrize(
    ("model", "members"), [(model, members) for model, rows in TABLES.items() for members in rows]
)
def test_the_published_table(model, members):
    for (corrupt, dropout), cell in zip(FRACTIONS, TABLES[model][members].split(), strict=True):
        assumed = Assumptions(corrupt, dropout, model)
        if cell == "-":
            found = find_degree(members, assumed)
            assert found is None or found > 0.98 * members
            continue
        chosen = choose_graph(
            members, corrupt_fraction=corrupt, dropout_fraction=dropout, model=model
        )
        assert f"{chosen.degree}/{chosen.threshold}" == cell, (corrupt, dropout)


def exact_thresholds(members: int, degree: int, assumed: Assumptions) -> tuple[int, int]:
    """What `thresholds` has to give for a sparse graph, without a float in it."""
    corrupt, dropped = (
        math.floor(Fraction(str(fraction)) * members)
        for fraction in (assumed.corrupt, assumed.dropout)
    )
    bits = 104 if assumed.adversary == "malicious" else 40
    lost, samples = corrupt + dropped, comb(members, degree)
    if degree <= lost:
        cuts = Fraction(members * (members - degree - 1), 2)
        chance = Fraction(comb(members - degree, lost - degree), comb(members, lost))
        if cuts * chance > Fraction(1, 2 ** (bits + 1)):
            return 1, 0

    def ways(marked: int, count: int) -> int:
        return comb(marked, count) * comb(members - marked, degree - count)

    # Pr[more than seen corrupt neighbours] <= 2^-(bits + 1)/members, times samples.
    more, seen = 0, degree
    while seen and (more + ways(corrupt, seen)) * members * 2 ** (bits + 1) <= samples:
        more += ways(corrupt, seen)
        seen -= 1
    if assumed.adversary != "semi_honest":
        seen = math.ceil((seen + degree - Fraction(5, 4)) / 2)
    fewer, answering = 0, 0
    while (fewer + ways(members - dropped, answering)) * members * 2**20 <= samples:
        fewer += ways(members - dropped, answering)
        answering += 1
    return max(2, seen + 1), answering


EXACT = [
    (members, corrupt, dropout)
    for members in (100, 317, 1000)
    for corrupt, dropout in ((0.05, 0.05), (0.05, 0.1), (0.1, 0.3), (0.33, 0.05), (0.0, 0.33))
]


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
@pytest.mark.parametrize(("members", "corrupt", "dropout"), EXACT)
def test_float_tails_are_those_of_exact_arithmetic(adversary, members, corrupt, dropout):
    assumed = Assumptions(corrupt, dropout, adversary)
    for degree in (2, 8, 20, 34, 52, 64, 80):
        low, high = thresholds(members, degree, assumed)
        exact_low, exact_high = exact_thresholds(members, degree, assumed)
        assert (low, high) == (exact_low, exact_high), degree


@pytest.mark.parametrize(
    ("members", "corrupt", "dropout"),
    [(100, 0.05, 0.1), (200, 0.05, 0.1), (1000, 0.05, 0.05), (1000, 0.05, 0.1), (1000, 0.33, 0.05)],
)
def test_the_malicious_row_is_the_smallest_degree_that_keeps_two_to_the_minus_104(
    members, corrupt, dropout
):
    assumed = Assumptions(corrupt, dropout, "malicious")
    found = find_degree(members, assumed)
    for degree in range(2, members - 1, 2):
        low, high = exact_thresholds(members, degree, assumed)
        if low <= high:
            break
    else:
        degree = None
    assert found == degree
    chosen = choose_graph(
        members, corrupt_fraction=corrupt, dropout_fraction=dropout, model="malicious"
    )
    assert chosen.threshold == (low if found else (members + math.ceil(corrupt * members)) // 2 + 1)


@pytest.mark.parametrize("members", [200, 1000, 10_000])
def test_a_server_that_may_grind_costs_neighbours(members):
    degrees = [
        choose_graph(members, corrupt_fraction=0.05, dropout_fraction=0.1, model=model).degree
        for model in ("semi_honest", "semi_malicious", "malicious")
    ]
    assert degrees == sorted(degrees) and degrees[0] < degrees[2]
    # Among 200 members ten are corrupt, and all ten may be neighbours at 2^-40 already.
    assert (degrees[1] < degrees[2]) == (members > 200)


def test_no_graph_is_chosen_for_what_cannot_be_kept():
    with pytest.raises(ConfigError, match="assumed_dropout"):
        choose_graph(1000, corrupt_fraction=0.4, dropout_fraction=0.4)


@pytest.mark.parametrize(
    ("members", "threshold"), [(3, 3), (4, 3), (5, 4), (10, 6), (20, 11), (64, 35)]
)
def test_small_cohorts_take_the_complete_graph(members, threshold):
    sizes = plan(members, Assumptions(0.05, 0.0))
    assert sizes.complete and sizes.degree == members - 1
    assert sizes.threshold == sizes.minimum == threshold


@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.1), (0.3, 0.3), (0.2, 0.2)])
def test_few_degrees_are_tried_for_ten_thousand_members(monkeypatch, corrupt, dropout):
    tried = []
    monkeypatch.setattr(
        parameters,
        "thresholds",
        lambda members, degree, assumed: (
            tried.append(degree) or thresholds(members, degree, assumed)
        ),
    )
    find_degree.cache_clear()
    find_degree(10_000, Assumptions(corrupt, dropout))
    assert 1 < len(tried) < 200 and tried == sorted(set(tried))


@pytest.mark.parametrize("members", [65, 100, 101, 500])
@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
def test_the_found_degree_is_the_smallest(members, adversary):
    assumed = Assumptions(0.1, 0.2, adversary)
    found = find_degree(members, assumed)
    fits = [
        degree
        for degree in range(2, members - 1, 2)
        if (bounds := thresholds(members, degree, assumed))[0] <= bounds[1]
    ]
    assert found == (fits[0] if fits else None)


@pytest.mark.parametrize("members", [3, 4, 10, 11, 64, 65, 100, 101, 1000])
@pytest.mark.parametrize("corrupt", [0.0, 0.05, 0.2, 0.3])
@pytest.mark.parametrize("degree", [None, 40, 1000])
@pytest.mark.parametrize("adversary", ["semi_malicious", "malicious"])
def test_no_setting_takes_a_plan_below_a_majority(members, corrupt, degree, adversary):
    """Clients rely on it: whatever threshold the user wants, two survivor claims never fit."""
    taken, assumed = [], Assumptions(corrupt, 0.0, adversary)
    for threshold in (None, *range(2, min(members, 100) + 1)):
        try:
            sizes = plan(members, assumed, degree=degree, threshold=threshold)
        except ConfigError:
            continue
        taken.append(sizes)
        certain = math.ceil(corrupt * members - 1e-9) if sizes.complete else 0
        assert 2 * sizes.threshold > sizes.degree + sizes.complete + certain
    assert taken or degree == 40


@pytest.mark.parametrize("members", [100, 1000])
def test_a_host_plans_once_for_all_its_clients(members):
    assert SecAggPlus().plan(members) is SecAggPlus().plan(members)


def test_a_cohort_too_large_to_plan_is_refused_before_it_costs_anything():
    assert plan(LARGEST_COHORT, Assumptions(0.05, 0.1)).degree < 200
    for members in (LARGEST_COHORT + 1, 2**62):
        with pytest.raises(ConfigError, match=f"takes {LARGEST_COHORT} clients"):
            plan(members, Assumptions(0.05, 0.1))


def test_a_given_threshold_finds_its_degree():
    assumed = Assumptions(0.05, 0.1)
    sizes = plan(200, assumed, threshold=40)
    low, high = thresholds(200, sizes.degree, assumed)
    assert sizes.threshold == 40 and low <= 40 <= high


def test_without_a_sparse_graph_the_complete_one_is_taken():
    assumed = Assumptions(0.33, 0.33)
    assert find_degree(100, assumed) is None
    sizes = plan(100, assumed)
    assert (sizes.degree, sizes.threshold) == (99, (100 + 33) // 2 + 1)


@pytest.mark.parametrize(
    ("members", "assumed", "given", "message"),
    [
        (10, (0.05, 0.1), {"threshold": 20}, r"threshold is 20, but the cohort is 10: .* 6 to 9"),
        (10, (0.05, 0.1), {"threshold": 5}, r"threshold is 5, .* leave it out to get 6"),
        (10, (0.05, 0.1), {"threshold": 10}, r"threshold is 10, .* 6 to 9"),
        (100, (0.05, 0.1), {"threshold": 3}, r"threshold is 3, .* leave it out"),
        (100, (0.05, 0.1), {"degree": 4}, r"degree is 4, too few .*: raise it to 26"),
        (10, (0.33, 0.4), {}, r"assumed_dropout is 0.4, .* leaves 6 .* needs 8"),
        (1000, (0.05, 0.6), {}, r"assumed_dropout is 0.6"),
        (2, (0.05, 0.1), {}, "needs 3 clients, but the cohort is 2"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_remedy(members, assumed, given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(members, Assumptions(*assumed), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
@pytest.mark.parametrize("keys", ["session", "enrolled"])
def test_a_plan_says_what_its_rules_ask_for(adversary, keys):
    sizes = plan(10, Assumptions(0.05, 0.1, adversary), keys=keys)
    assert (sizes.adversary, sizes.keys) == (adversary, keys)
    assert sizes.signed == (adversary != "semi_honest")
    assert sizes.checks_roster == (adversary == "malicious")
    assert sizes.identified == (adversary != "semi_honest" or keys == "enrolled")


def test_a_degree_beyond_the_cohort_is_the_complete_graph():
    assert plan(10, Assumptions(0.05, 0.1), degree=40).degree == 9
