"""The graph is regular, symmetric, connected, public, and unpredictable before the context is."""

from __future__ import annotations

import pytest
from secagg_network import a_context

from codex_ray.secagg.graph import draw_graph, holders, sustainable

MEMBERS = tuple(range(100, 140))


@pytest.mark.parametrize("degree", [2, 6, 26, 38])
def test_regular_symmetric_sorted_and_connected(degree):
    graph = draw_graph(MEMBERS, a_context(3), degree=degree)
    assert set(graph) == set(MEMBERS)
    for one, near in graph.items():
        assert len(near) == degree and list(near) == sorted(set(near)) and one not in near
        assert all(one in graph[peer] for peer in near)
    reached = {MEMBERS[0]}
    while grown := {peer for one in reached for peer in graph[one]} - reached:
        reached |= grown
    assert reached == set(MEMBERS)


@pytest.mark.parametrize("degree", [39, 40, 1000])
def test_complete_from_members_minus_one(degree):
    graph = draw_graph(MEMBERS, a_context(3), degree=degree)
    assert all(set(near) == set(MEMBERS) - {one} for one, near in graph.items())


def test_the_shuffle_depends_on_context_and_members_only():
    one = draw_graph(MEMBERS, a_context(3), degree=6)
    assert one == draw_graph(MEMBERS[::-1], a_context(3), degree=6)
    assert one != draw_graph(MEMBERS, a_context(3, round=1), degree=6)
    assert one != draw_graph((*MEMBERS[1:], 7), a_context(3), degree=6)


@pytest.mark.parametrize("degree", [0, 5, -2])
def test_odd_degrees_are_refused(degree):
    with pytest.raises(ValueError, match="even degree"):
        draw_graph(MEMBERS, a_context(3), degree=degree)


def test_a_member_listed_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        draw_graph((1, 2, 2), a_context(3), degree=2)


def test_an_owner_holds_its_own_share_on_the_complete_graph_only():
    assert holders(2, {3, 1, 2}, complete=True) == (1, 2, 3)
    assert holders(2, {3, 1, 2}, complete=False) == (1, 3)


def test_sustainable_drops_the_weak_and_whom_they_weaken():
    path = {1: (2,), 2: (1, 3), 3: (2, 4), 4: (3, 5), 5: (4, 6, 7), 6: (5, 7), 7: (5, 6)}
    assert sustainable(path, {1, 2, 3, 4, 5, 6, 7}, needed=2) == (5, 6, 7)
    assert sustainable(path, {1, 2, 3, 4, 5, 6}, needed=2) == ()
