"""The graph is regular, symmetric, connected, public, and unpredictable before its seed is."""

from __future__ import annotations

import pytest

from codex_ray.secagg.graph import draw_graph, holders, neighbours, sustainable

MEMBERS = tuple(range(100, 140))
SEED = b"s" * 32


@pytest.mark.parametrize("degree", [2, 6, 26, 38])
def test_regular_symmetric_sorted_and_connected(degree):
    graph = draw_graph(MEMBERS, SEED, degree=degree)
    assert set(graph) == set(MEMBERS)
    for one, near in graph.items():
        assert len(near) == degree and list(near) == sorted(set(near)) and one not in near
        assert all(one in graph[peer] for peer in near)
    reached = {MEMBERS[0]}
    while grown := {peer for one in reached for peer in graph[one]} - reached:
        reached |= grown
    assert reached == set(MEMBERS)


@pytest.mark.parametrize("degree", [2, 6, 38, 39, 40])
def test_a_client_computes_its_own_part_of_the_same_graph(degree):
    graph = draw_graph(MEMBERS, SEED, degree=degree)
    for one in MEMBERS:
        assert neighbours(one, MEMBERS[::-1], seed=SEED, degree=degree) == graph[one]


@pytest.mark.parametrize("degree", [39, 40, 1000])
def test_complete_from_members_minus_one(degree):
    graph = draw_graph(MEMBERS, SEED, degree=degree)
    assert all(near == tuple(sorted(set(MEMBERS) - {one})) for one, near in graph.items())


def test_the_shuffle_depends_on_seed_and_members_only():
    one = draw_graph(MEMBERS, SEED, degree=6)
    assert one == draw_graph(MEMBERS[::-1], SEED, degree=6)
    assert one != draw_graph((*MEMBERS[1:], 7), SEED, degree=6)


@pytest.mark.parametrize("bit", [0, 7, 100, 255])
def test_one_bit_of_the_seed_is_another_graph(bit):
    other = (int.from_bytes(SEED, "little") ^ (1 << bit)).to_bytes(32, "little")
    before, after = (draw_graph(MEMBERS, seed, degree=6) for seed in (SEED, other))
    same = [len(set(before[one]) & set(after[one])) for one in MEMBERS]
    # Six of 39 by chance: 0.9 on average, and not twice that in all.
    assert sum(same) < 2 * len(MEMBERS) * 36 / 39


@pytest.mark.parametrize("degree", [0, 5, -2])
def test_odd_degrees_are_refused(degree):
    with pytest.raises(ValueError, match="even degree"):
        draw_graph(MEMBERS, SEED, degree=degree)
    with pytest.raises(ValueError, match="even degree"):
        neighbours(MEMBERS[0], MEMBERS, seed=SEED, degree=degree)


def test_a_member_listed_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        draw_graph((1, 2, 2), SEED, degree=2)


def test_an_owner_holds_its_own_share_on_the_complete_graph_only():
    assert holders(2, {3, 1, 2}, complete=True) == (1, 2, 3)
    assert holders(2, {3, 1}, complete=True) == (1, 2, 3)
    assert holders(2, {3, 1, 2}, complete=False) == (1, 3)


def test_sustainable_drops_the_weak_and_whom_they_weaken():
    path = {1: (2,), 2: (1, 3), 3: (2, 4), 4: (3, 5), 5: (4, 6, 7), 6: (5, 7), 7: (5, 6)}
    assert sustainable(path, {1, 2, 3, 4, 5, 6, 7}, needed=2) == (5, 6, 7)
    assert sustainable(path, {1, 2, 3, 4, 5, 6}, needed=2) == ()
