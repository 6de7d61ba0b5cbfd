"""k, l and t against their definitions, the papers' own examples, and brute force."""

from collections import Counter
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.preparation.anonymity import Requirement, Sensitive, figures

TABLES = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 6), min_size=n, max_size=n),
    )
)


def by_hand(classes: list[int], values: list[int], *, ordered: bool) -> tuple:
    """k, l, entropy l and t by the papers' words, one record at a time."""
    groups = {c: [v for d, v in zip(classes, values, strict=True) if d == c] for c in classes}
    every = sorted(set(values))
    whole = Counter(values)
    entropies, distances = [], []
    for group in groups.values():
        counts = Counter(group)
        shares = [counts[v] / len(group) for v in every]
        entropies.append(exp(-sum(p * log(p) for p in shares if p)))
        gaps = [p - whole[v] / len(values) for p, v in zip(shares, every, strict=True)]
        if ordered:
            carried = [abs(sum(gaps[: i + 1])) for i in range(len(gaps))]
            distances.append(sum(carried) / max(len(every) - 1, 1))
        else:
            distances.append(sum(map(abs, gaps)) / 2)
    return (
        min(map(len, groups.values())),
        min(len(set(group)) for group in groups.values()),
        min(entropies),
        max(distances),
    )


@settings(max_examples=150, deadline=None)
@given(TABLES, st.booleans())
def test_figures_are_those_of_the_definitions(table, ordered):
    classes, values = table
    numbered = np.unique(classes, return_inverse=True)[1].astype(np.int32)
    column = Sensitive.of("s", np.array(values), ordered=ordered)
    found = figures(numbered, [column])
    k, distinct, entropy, distance = by_hand(classes, values, ordered=ordered)
    assert (found.k, found.l["s"]) == (k, distinct)
    assert found.entropy_l["s"] == pytest.approx(entropy)
    assert found.t["s"] == pytest.approx(distance)
    assert found.classes == len(set(classes))


def test_the_salaries_of_the_t_closeness_paper():
    """Li, Li and Venkatasubramanian 2007, section 4.1: .375 and .167."""
    everybody = [3, 4, 5, 6, 7, 8, 9, 10, 11]
    for group, distance in (([3, 4, 5], 0.375), ([6, 8, 11], 1 / 6)):
        rest = [value for value in everybody if value not in group]
        column = Sensitive.of("salary", np.array(group + rest), ordered=True)
        rows = np.arange(3, dtype=np.int32)
        assert Requirement(k=1, sensitive=(column,), t=distance).met(rows)
        assert not Requirement(k=1, sensitive=(column,), t=distance - 1e-6).met(rows)


@settings(max_examples=80, deadline=None)
@given(TABLES, st.booleans())
def test_a_requirement_is_met_exactly_when_the_figures_say_so(table, ordered):
    classes, values = table
    column = Sensitive.of("s", np.array(values), ordered=ordered)
    numbered = np.unique(classes, return_inverse=True)[1].astype(np.int32)
    found = figures(numbered, [column])
    parts = [np.flatnonzero(numbered == c).astype(np.int32) for c in range(found.classes)]

    def all_met(**asked) -> bool:
        return all(Requirement(sensitive=(column,), **asked).met(part) for part in parts)

    t = found.t["s"]
    assert all_met(k=found.k, l=found.l["s"], entropy_l=found.entropy_l["s"], t=max(t, 1e-9))
    assert not all_met(k=found.k + 1)
    assert not all_met(k=1, l=found.l["s"] + 1)
    assert not all_met(k=1, entropy_l=found.entropy_l["s"] + 1e-3)
    assert t <= 0.001 or not all_met(k=1, t=t - 1e-3)


def test_many_values_are_counted_a_few_classes_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    values, classes = rng.integers(0, 500, 3000), rng.integers(0, 40, 3000).astype(np.int32)
    column = Sensitive.of("s", values, ordered=True)
    whole = figures(classes, [column])
    monkeypatch.setattr("codex_ray.preparation.anonymity._CELLS", 1200)
    assert figures(classes, [column]) == whole


@pytest.mark.parametrize("kind", ["uint8", "float64"])
def test_no_value_is_none_that_hides_another(kind):
    """Nine of Sales and one gap: whoever is in the class is known to be of Sales."""
    values = np.array([0] * 9 + [3] + [0, 1] * 5, dtype=kind)
    values, missing = (values, values == 3) if kind == "uint8" else (
        np.where(values == 3, np.nan, values), values == 3
    )  # fmt: skip
    column = Sensitive.of("s", values, ordered=False, missing=missing)
    classes = np.repeat(np.array([0, 1], np.int32), 10)
    found = figures(classes, [column])
    assert found.l == {"s": 1} and found.l_with_missing == {"s": 2}
    assert found.entropy_l["s"] == pytest.approx(1)
    assert found.entropy_l_with_missing["s"] == pytest.approx(exp(-0.9 * log(0.9) - 0.1 * log(0.1)))
    rows = np.arange(10, dtype=np.int32)
    for asked in ({"l": 2}, {"entropy_l": 1.1}):
        requirement = Requirement(k=2, sensitive=(column,), **asked)
        assert not requirement.met(rows) and requirement.met(rows + 10)


def test_a_class_of_which_nothing_is_known_has_no_diversity():
    values = np.array([2, 2, 0, 1], np.uint8)
    column = Sensitive.of("s", values, ordered=False, missing=values == 2)
    found = figures(np.array([0, 0, 1, 1], np.int32), [column])
    assert found.l == {"s": 0} and found.entropy_l == {"s": 0.0}
    assert not Requirement(k=2, sensitive=(column,), entropy_l=1.0).met(np.array([0, 1], np.int32))
