"""Attack 17: a sum of so few that it shows one of them, at each trip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from isolation import delivers_only
from lying_server import (
    TEN,
    LyingServer,
    gives_whatever_is_asked,
    planned_server,
    request_for,
)
from secagg_modes import every_mode

from codex_ray.errors import SumAborted
from codex_ray.secagg import client as client_module
from codex_ray.secagg import server as server_module
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.messages import SurvivorClaim
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

VICTIM = 0


def refuses(server: LyingServer, change, why: str) -> None:
    """The victim refuses the present request, changed."""
    assert server.ask(VICTIM, change(server.outbox[VICTIM])) is None
    assert why in server.refusals[VICTIM]


@every_mode
def test_no_trip_goes_on_with_too_few(protocol):
    confirms = protocol.adversary != "semi_honest"
    few = {
        Stage.ADVERTISE_KEYS: (lambda it: replace(it, members=2, degree=1), "a sum of 2 clients"),
        Stage.SHARE_KEYS: (
            lambda it: replace(it, adverts={one: it.adverts[one] for one in (0, 1)}),
            "1 neighbours cannot hide it",
        ),
        Stage.MASKED_INPUT: (
            lambda it: delivers_only(VICTIM, (1,))(VICTIM, it),
            "1 neighbours with shares cannot hide it",
        ),
        Stage.UNMASK: (
            lambda it: replace(it, survivors=TEN[:5], dropped=TEN[5:]),
            "5 survivors around it, 6 are needed",
        ),
    }
    if confirms:
        few[Stage.CONFIRM_SURVIVORS] = (lambda _: SurvivorClaim(TEN[:5]), "5 survivors")
    for stage, (change, why) in few.items():
        server = LyingServer(protocol)
        server.until(stage)
        refuses(server, change, why)


@every_mode
@pytest.mark.parametrize(
    "stage", [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.UNMASK]
)
def test_an_honest_server_stops_there_by_itself(protocol, stage):
    server = LyingServer(protocol)
    server.until(stage)
    inbox = {one: server.ask(one, server.outbox[one]) for one in TEN[:5]}
    with pytest.raises(SumAborted, match=r"[05] clients can go on, 6 are needed"):
        server.session.send(inbox)


# A victim and a spy: the sum less the spy's part.


def test_mutation_a_sum_of_two_shows_one(monkeypatch):
    for module in (client_module, server_module):
        monkeypatch.setattr(module, "FEWEST_PEERS", 1)
    monkeypatch.setattr(client_module, "SMALLEST_COHORT", 1)
    server = planned_server(Plan(2, 1, 2, 2), spies=(1,))
    total = server.finish().groups[0].total
    np.testing.assert_array_equal(total - server.parts[1], server.parts[VICTIM])


def test_such_a_session_is_not_entered():
    server = planned_server(Plan(2, 1, 2, 2), spies=(1,))
    with pytest.raises(SumAborted):
        server.finish()
    assert set(server.refusals) == {0, 1}


# Everybody else is said to have dropped, so all escrows open.


def alone(protocol) -> LyingServer:
    server = LyingServer(protocol)
    server.until(Stage.UNMASK)
    for one in TEN[:5]:
        server.ask(one, request_for(server, one, ()))
    for one in TEN[5:]:
        server.ask(one, request_for(server, one, set(TEN) - {VICTIM, one}))
    return server


def test_a_sum_of_one_is_refused():
    server = alone(SecAgg(adversary="semi_honest"))
    assert set(server.refusals) == set(TEN[5:]) and not server.reads(VICTIM)


def test_mutation_without_a_minimum_it_is_given(monkeypatch):
    """Of nobody both secrets are open, and the summand is read all the same."""
    monkeypatch.setattr(SecAggClient, "_unmask", gives_whatever_is_asked)
    server = LyingServer(SecAgg())
    server.until(Stage.UNMASK)
    for one in TEN:
        server.ask(one, request_for(server, one, set(TEN) - {VICTIM, one}))
    assert server.reads(VICTIM)
    assert not server.has_both(VICTIM)
