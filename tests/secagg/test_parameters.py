"""Degree and threshold match the production finder's table, fast; the impossible is refused."""

from __future__ import annotations

import csv
import math
import time
import timeit
from pathlib import Path

import pytest

from codex_ray.errors import ConfigError
from codex_ray.secagg.parameters import LARGEST_COHORT, Assumptions, find_degree, plan, thresholds
from codex_ray.secagg.protocols import SecAggPlus

VECTORS = Path(__file__).parents[1] / "vectors" / "graph_parameters.csv"
ROWS = list(csv.DictReader(VECTORS.open()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_rows_of_the_production_finder(row):
    assumed = Assumptions(
        float(row["corrupt_fraction"]), float(row["dropout_fraction"]), row["model"]
    )
    members = int(row["cohort"])
    degree = find_degree(members, assumed)
    assert degree == int(row["degree"])
    assert thresholds(members, degree, assumed)[0] == int(row["threshold"])


def test_there_are_fourteen_rows():
    assert len(ROWS) == 14


@pytest.mark.parametrize(
    ("members", "threshold"), [(3, 3), (4, 3), (5, 4), (10, 6), (20, 11), (64, 35)]
)
def test_small_cohorts_take_the_complete_graph(members, threshold):
    sizes = plan(members, Assumptions(0.05, 0.0))
    assert sizes.complete and sizes.degree == members - 1
    assert sizes.threshold == sizes.minimum == threshold


@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.1), (0.3, 0.3), (0.2, 0.2)])
def test_ten_thousand_members_take_less_than_a_moment(corrupt, dropout):
    find_degree.cache_clear()
    start = time.process_time()
    find_degree(10_000, Assumptions(corrupt, dropout))
    assert time.process_time() - start < 0.3


@pytest.mark.parametrize("members", [65, 100, 101, 500])
@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious"])
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
def test_no_setting_takes_a_semi_malicious_plan_below_a_majority(members, corrupt, degree):
    """Clients rely on it: whatever threshold the user wants, two survivor claims never fit."""
    taken = []
    for threshold in (None, *range(2, min(members, 100) + 1)):
        try:
            sizes = plan(members, Assumptions(corrupt, 0.0), degree=degree, threshold=threshold)
        except ConfigError:
            continue
        taken.append(sizes)
        certain = math.ceil(corrupt * members - 1e-9) if sizes.complete else 0
        assert 2 * sizes.threshold > sizes.degree + sizes.complete + certain
    assert taken or degree == 40


@pytest.mark.parametrize("members", [100, 1000])
def test_a_host_plans_once_for_all_its_clients(members):
    protocol = SecAggPlus()
    assert protocol.plan(members) is SecAggPlus().plan(members)
    took = min(timeit.repeat(lambda: protocol.plan(members), number=100, repeat=5)) / 100
    assert took < 50e-6


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


def test_a_degree_beyond_the_cohort_is_the_complete_graph():
    assert plan(10, Assumptions(0.05, 0.1), degree=40).degree == 9
