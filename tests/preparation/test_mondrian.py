"""Mondrian keeps its promise for every record, cuts as far as it may, and says what is true."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.preparation.anonymity import Requirement, Sensitive, figures
from codex_ray.preparation.axes import Line, Set, Tree, axis_of
from codex_ray.preparation.column import Column
from codex_ray.preparation.compact import Coding
from codex_ray.preparation.mondrian import mondrian

TREE = {"west": {"DE": ["Bonn", "Koeln"], "FR": ["Metz"]}, "east": ["Graz", "Wien", "Linz"]}
AGE = Column(type="integer", role="quasi_identifier", range=(0, 99))
DOSE = Column(type="number", role="quasi_identifier", range=(0, 1))
CITY = Column(type="category", role="quasi_identifier", hierarchy=TREE, required=False)
TEAM = Column(type="category", role="quasi_identifier", values=("a", "b", "c", "d"))


def axes(seed: int, count: int) -> list:
    """Four quasi-identifiers of random records, with ties, and cities that are missing."""
    rng = np.random.default_rng(seed)
    columns = [
        (AGE, rng.integers(20, 40, count).astype(np.uint8)),
        (DOSE, rng.random(count).round(2)),
        (CITY, rng.integers(0, 7, count).astype(np.uint8)),
        (TEAM, rng.integers(0, 4, count).astype(np.uint8)),
    ]
    return [axis_of(Coding.of(column), codes) for column, codes in columns]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 300),
    k=st.integers(2, 12),
    least=st.integers(1, 3),
    relaxed=st.booleans(),
)
def test_every_class_has_what_is_asked_and_every_record_is_covered(seed, count, k, least, relaxed):
    found = axes(seed, count)
    rng = np.random.default_rng(seed + 1)
    secret = Sensitive.of("s", rng.integers(0, 4, count), ordered=False)
    asked = Requirement(k=k, l=least, sensitive=(secret,))
    made = mondrian(found, count, requirement=asked, relaxed=relaxed)
    if made is None:
        assert count < k or len(np.unique(secret.codes)) < least
        return
    told = figures(made.classes, [secret])
    assert told.k >= k and told.l["s"] >= least
    line, dose, tree, some = made.ends
    age = found[0].values[np.arange(count)].astype(float)
    assert (line[made.classes, 0] <= age).all() and (age <= line[made.classes, 1]).all()
    assert (dose[made.classes, 0] <= found[1].values).all()
    assert (found[1].values <= dose[made.classes, 1]).all()
    groups = {"*": [*CITY.options, "(none)"]} | CITY.groups
    for row, number in enumerate(made.classes):
        city = (*CITY.options, "(none)")[found[2].codes[row]]
        assert city in groups.get(tree[number], [tree[number]])
        assert TEAM.options[found[3].codes[row]] in some[number].split(" | ")


def test_no_two_classes_say_the_same():
    made = mondrian(axes(3, 400), 400, requirement=Requirement(k=5), relaxed=True)
    said = list(zip(*(map(tuple, e) if not isinstance(e, tuple) else e for e in made.ends),
                    strict=True))  # fmt: skip
    assert len(set(said)) == len(said) == made.classes.max() + 1


def test_a_line_is_cut_to_the_end():
    """Different numbers, k = 2: classes of 2 or 3 records, as figure 3 of the paper makes them."""
    values = np.arange(101.0)
    axis = Line.of(Coding.of(DOSE), values)
    made = mondrian([axis], 101, requirement=Requirement(k=2), relaxed=False)
    assert set(np.bincount(made.classes)) <= {2, 3}
    assert (made.ends[0][:, 1] - made.ends[0][:, 0]).max() <= 2


def test_strict_keeps_equal_values_together_and_relaxed_does_not():
    values = np.repeat([1.0, 2.0], [30, 10])
    axis = Line.of(Coding.of(DOSE), values)
    strict = mondrian([axis], 40, requirement=Requirement(k=15), relaxed=False)
    relaxed = mondrian([axis], 40, requirement=Requirement(k=15), relaxed=True)
    assert len(strict.ends[0]) == 1  # 30 and 10 is not allowed, and 30 are all alike
    assert sorted(np.bincount(relaxed.classes)) == [20, 20]


def test_the_median_at_the_top_is_still_cut_below():
    axis = Line.of(Coding.of(DOSE), np.repeat([1.0, 2.0], [5, 20]))
    made = mondrian([axis], 25, requirement=Requirement(k=5), relaxed=False)
    assert sorted(np.bincount(made.classes)) == [5, 20]


def test_a_tree_is_cut_into_children_and_named_by_what_covers():
    codes = np.repeat(np.arange(6), [4, 4, 4, 1, 1, 4]).astype(np.uint8)
    tree = Tree.of(codes, CITY.hierarchy)
    made = mondrian([tree], 18, requirement=Requirement(k=4), relaxed=False)
    names = {made.ends[0][c]: n for c, n in enumerate(np.bincount(made.classes))}
    # Graz and Linz are one each, so that the east stays whole; the west comes apart.
    assert names == {"Bonn": 4, "Koeln": 4, "Metz": 4, "east": 6}


def test_sets_are_cut_in_the_order_of_the_schema():
    made = mondrian(
        [Set.of(np.array([0, 0, 1, 1, 2, 2, 3, 3], np.uint8), ("a", "b", "c", "d"))],
        8,
        requirement=Requirement(k=4),
        relaxed=False,
    )
    assert sorted(made.ends[0]) == ["a | b", "c | d"]


def test_the_widest_direction_is_cut_first():
    wide = Line.of(Coding.of(DOSE), np.arange(8.0))
    narrow = Line.of(Coding.of(DOSE), np.repeat([0.0, 7.0], [4, 4])[::-1].copy())
    made = mondrian([wide, narrow], 8, requirement=Requirement(k=4), relaxed=False)
    assert sorted(map(tuple, made.ends[0])) == [(0, 3), (4, 7)]


def test_thirty_thousand_records_take_a_few_seconds():
    found, count = axes(0, 32_000), 32_000
    rng = np.random.default_rng(1)
    secret = Sensitive.of("s", rng.integers(0, 10, count), ordered=False)
    asked = Requirement(k=10, l=2, sensitive=(secret,))
    began = time.process_time()
    made = mondrian(found, count, requirement=asked, relaxed=False)
    assert time.process_time() - began < 10  # about one
    assert made.classes.max() > 500


def test_a_coding_takes_the_smallest_word_and_keeps_the_order():
    assert Coding.of(AGE).width == np.uint8 and Coding.of(DOSE).width == np.float64
    wide = Column(type="date", role="feature", range=("1900-01-01", "2025-12-31"))
    coding = Coding.of(wide)
    assert coding.width == np.uint16
    days = np.array([wide.ends[0], np.nan, 0.0, wide.ends[1]])
    codes = coding.encode(days)
    assert coding.missing(codes).tolist() == [False, True, False, False]
    assert coding.number(codes)[[0, 2, 3]] == pytest.approx(days[[0, 2, 3]])
