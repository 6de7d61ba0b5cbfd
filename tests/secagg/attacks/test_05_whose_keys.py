"""Attack 5: keys that are not those of the clients they are said to be of.

The server plays all clients but one itself (its puppets), under the ids of honest clients or under
ids of its own. What it gets is an honest sum of one unknown and of summands that it knows.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from lying_server import CONTEXT, DIMENSION, TEN, Blind, LyingServer, small_summands
from secagg_modes import MODES, mode_name
from secagg_network import a_membership, an_enrolment, an_identity

from codex_ray.errors import SumAborted
from codex_ray.secagg.identity import Identity, Membership, SharedWork
from codex_ray.secagg.protocols import SecAgg
from codex_ray.secagg.roster import Opening
from codex_ray.types import Stage

VICTIM = 0
SIGNED = [it for it in MODES if it.adversary != "semi_honest"]
STRANGERS = tuple(range(100, 109))


class Credulous(SharedWork):
    """Puppets check no signature."""

    def verify(self, *_) -> None:
        """Everything holds."""


def with_puppets(protocol, puppets, *, enrolled=TEN, forged=False) -> LyingServer:
    """A session of the victim and `puppets`, who all say that they are enrolled with it.

    `forged`: the server wrote the list, with the keys of its puppets in it.
    """
    members = (VICTIM, *puppets)
    parts = {one: np.zeros(DIMENSION, dtype=np.uint32) for one in members}
    parts |= {VICTIM: small_summands([VICTIM])[VICTIM]}
    lists = an_enrolment(enrolled)
    clients = {
        one: protocol.client(
            one,
            CONTEXT,
            parts[one].copy(),
            membership=Membership(an_identity(one) if forged else Identity.fresh(), lists),
            shared=Credulous(),
        )
        for one in puppets
    }
    clients[VICTIM] = protocol.client(
        VICTIM, CONTEXT, parts[VICTIM].copy(), membership=a_membership(VICTIM, enrolled)
    )
    session = protocol.session(members, CONTEXT, enrolment=Blind(lists.entries))
    return LyingServer(protocol, members, parts=parts, session=session, clients=clients)


def gives_the_victim(server: LyingServer) -> bool:
    """Whether the sum of the session is the summand of the victim."""
    try:
        result = server.finish()
    except SumAborted:
        return False
    return VICTIM in result.members and np.array_equal(result.groups[0].total, server.parts[VICTIM])


# Under the ids of honest clients: the man in the middle.


@pytest.mark.parametrize("protocol", SIGNED, ids=mode_name)
def test_swapped_keys_are_refused(protocol):
    server = with_puppets(protocol, TEN[1:])
    assert not gives_the_victim(server)
    assert "signature of client 1 does not hold" in server.refusals[VICTIM]
    assert VICTIM not in server.replies[Stage.SHARE_KEYS]


def test_without_signatures_they_are_taken_as_documented():
    """semi_honest: the server does as it should, so nobody checks that it does."""
    assert gives_the_victim(with_puppets(SecAgg(adversary="semi_honest"), TEN[1:]))


def test_enrolled_keys_cannot_be_swapped_even_then():
    """Puppets lack the private half of what the enrolment list has: no envelope opens."""
    server = with_puppets(SecAgg(adversary="semi_honest", keys="enrolled"), TEN[1:])
    assert not gives_the_victim(server)
    assert "does not open" in server.refusals[VICTIM]


@pytest.mark.parametrize("protocol", SIGNED[::2], ids=mode_name)
def test_mutation_without_the_check_of_signatures_they_are_taken(monkeypatch, protocol):
    monkeypatch.setattr(SharedWork, "verify", lambda *_: None)
    assert gives_the_victim(with_puppets(protocol, TEN[1:]))


@pytest.mark.parametrize("protocol", SIGNED[::2], ids=mode_name)
@pytest.mark.parametrize("swapped", TEN[1:])
def test_one_swapped_key_is_refused_too(protocol, swapped):
    server, other = LyingServer(protocol), LyingServer(protocol)
    for one in (server, other):
        one.until(Stage.SHARE_KEYS)
    directory = server.outbox[VICTIM]
    adverts = directory.adverts | {swapped: other.outbox[VICTIM].adverts[swapped]}
    assert server.ask(VICTIM, replace(directory, adverts=adverts)) is None
    why = f"(the signature of client {swapped} does not hold|{swapped} advertises another)"
    assert re.search(why, server.refusals[VICTIM])


# Under ids of its own: Sybils.


@pytest.mark.parametrize("protocol", [it for it in MODES if it.identified], ids=mode_name)
def test_clients_that_nobody_enrolled_are_refused(protocol):
    server = with_puppets(protocol, STRANGERS)
    assert not gives_the_victim(server)
    assert "not enrolled" in server.refusals[VICTIM]


def test_without_a_list_they_are_taken_as_documented():
    assert gives_the_victim(with_puppets(SecAgg(adversary="semi_honest"), STRANGERS))


@pytest.mark.parametrize("protocol", [it for it in MODES if it.identified], ids=mode_name)
def test_mutation_with_a_list_of_the_servers_they_are_taken(protocol):
    """So the list has to come from whoever admits clients, as it says in identity.py."""
    forged = (VICTIM, *STRANGERS)
    assert gives_the_victim(with_puppets(protocol, STRANGERS, enrolled=forged, forged=True))


# Who takes part is one thing for all: two rosters have no sum.


def with_two_rosters() -> LyingServer:
    """Half of the clients are told another digest of the roster than the others."""
    server = LyingServer(SecAgg())
    server.until(
        Stage.MASKED_INPUT,
        {Stage.SHARE_KEYS: lambda one, it: replace(it, roster=bytes(32)) if one % 2 else it},
    )
    return server


def test_two_rosters_give_no_sum():
    server = with_two_rosters()
    with pytest.raises(SumAborted):
        server.finish()
    assert set(server.refusals) == set(TEN)
    assert all("does not open" in why for why in server.refusals.values())


def test_mutation_a_session_that_ignores_the_roster_gives_one(monkeypatch):
    monkeypatch.setattr(Opening, "session", lambda opening, _: opening.bound)
    assert with_two_rosters().finish().members == TEN
