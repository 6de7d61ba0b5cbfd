"""Attack 22: a graph in which the victim has corrupt neighbours only.

The graph follows from everybody's nonces. A server that chooses them, or learns all before a spy
has to name its own, tries graphs until one is bad; under `malicious` nonces are committed to first,
and what remains (to leave revealed nonces out) is paid for with 2^64 tries in the bound.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from lying_server import CONTEXT, LyingServer, planned_server
from scipy.stats import hypergeom

from codex_ray.errors import ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.secagg import directory as directory_module
from codex_ray.secagg.graph import neighbours
from codex_ray.secagg.messages import AdvertisedKeys, ShareDelivery
from codex_ray.secagg.parameters import GRINDING_BITS, PRIVACY_BITS, Plan
from codex_ray.secagg.protocols import SecAggPlus
from codex_ray.secagg.roster import Opening, roster_of, roster_of_nonces
from codex_ray.types import Stage

SIZES = Plan(24, 4, 3, 13)
MEMBERS, SPIES, VICTIM = tuple(range(24)), frozenset(range(18, 24)), 0


def opening(adversary="semi_malicious") -> Opening:
    return Opening(CONTEXT, replace(SIZES, adversary=adversary), b"n" * 32, b"e" * 32)


def near(start: Opening, roster: bytes) -> tuple[int, ...]:
    seed = start.graph_seed(start.session(roster))
    return neighbours(VICTIM, MEMBERS, seed=seed, degree=SIZES.degree)


def corrupt(start: Opening, roster: bytes) -> bool:
    """Whether the spies around the victim can rebuild its secrets."""
    return len(SPIES & set(near(start, roster))) >= SIZES.threshold


def adverts(nonces) -> dict[int, bytes]:
    return {one: AdvertisedKeys(b"", nonce, b"").to_frame() for one, nonce in nonces.items()}


def fresh_nonces() -> dict[int, bytes]:
    return {one: fresh_secret(32) for one in MEMBERS}


# One nonce is another graph.


@pytest.mark.parametrize("whose", [VICTIM, 7, 23])
def test_one_nonce_changed_is_another_graph(whose):
    start, nonces = opening(), fresh_nonces()
    first = near(start, roster_of(adverts(nonces)))
    others = {
        near(start, roster_of(adverts(nonces | {whose: fresh_secret(32)}))) for _ in range(20)
    }
    assert len(others | {first}) > 15  # Of 8855 neighbourhoods few meet again.


def test_whoever_names_its_nonce_last_chooses_the_graph():
    """Why semi_malicious has to trust the server with the first trip: some thirty tries do."""
    start, nonces = opening(), fresh_nonces()
    tries = (nonces | {23: bytes([at % 256, at // 256] * 16)} for at in itertools.count())
    bad = next(at for at, it in enumerate(tries) if corrupt(start, roster_of(adverts(it))))
    likely = hypergeom.sf(SIZES.threshold - 1, len(MEMBERS) - 1, len(SPIES), SIZES.degree)
    assert bad < 30 / likely  # It fails by chance with probability e^-30.


# Under `malicious` a nonce can be named once.


def grind(server: LyingServer) -> dict[int, bytes]:
    """What the server reveals: all nonces, but that of a spy replaced by one that it likes."""
    directory = server.outbox[VICTIM]
    client = server.clients[VICTIM]
    for at in range(20_000):
        nonces = directory.nonces | {23: at.to_bytes(32, "little")}
        committed = client._committed | {23: client._opening.commitment(23, nonces[23])}
        if corrupt(client._opening, roster_of_nonces(client._opening, committed, nonces)):
            return nonces
    raise AssertionError("no bad graph among 20 000")


def test_a_nonce_that_is_chosen_afterwards_is_refused():
    server = planned_server(replace(SIZES, adversary="malicious"), spies=SPIES)
    server.until(Stage.SHARE_KEYS)
    assert server.ask(VICTIM, replace(server.outbox[VICTIM], nonces=grind(server))) is None
    assert "nonce of client 23 is not the one it committed to" in server.refusals[VICTIM]


def test_the_roster_refuses_it_as_well():
    start, nonces = opening("malicious"), fresh_nonces()
    committed = {one: start.commitment(one, nonce) for one, nonce in nonces.items()}
    assert roster_of_nonces(start, committed, nonces)
    with pytest.raises(ProtocolError, match="not the one it committed to"):
        roster_of_nonces(start, committed, nonces | {23: fresh_secret(32)})


# The neighbours that the server names.


def surround(server: LyingServer) -> bool:
    """Show the victim four spies as its neighbours, and each of them the others; read it."""
    server.until(Stage.SHARE_KEYS)
    group = (VICTIM, *sorted(SPIES)[: SIZES.degree])
    everyone = {one: frame for it in server.outbox.values() for one, frame in it.adverts.items()}
    sealed = {}
    for one in group:
        shown = {peer: everyone[peer] for peer in group}
        reply = server.ask(one, replace(server.outbox[one], adverts=shown))
        if reply is None:
            return False
        sealed[one] = reply.sealed
    for one in group:
        server.ask(one, ShareDelivery({peer: sealed[peer][one] for peer in group if peer != one}))
    return server.reads(VICTIM)


def test_neighbours_of_the_servers_choice_are_refused():
    server = planned_server(replace(SIZES, adversary="malicious"), spies=SPIES)
    assert not surround(server)
    assert "are not its neighbours in the graph" in server.refusals[VICTIM]


def test_mutation_without_the_check_the_server_chooses(monkeypatch):
    monkeypatch.setattr(directory_module, "_check_neighbours", lambda *_, **__: None)
    assert surround(planned_server(replace(SIZES, adversary="malicious"), spies=SPIES))


def test_under_semi_malicious_the_server_chooses_as_documented():
    assert surround(planned_server(SIZES, spies=SPIES))


# What grinding is worth.


@pytest.mark.parametrize("members", [200, 1000, 10_000])
def test_two_to_the_64_graphs_leave_a_chance_of_two_to_the_minus_40(members):
    sizes = SecAggPlus(adversary="malicious").plan(members)
    spies = members // 20
    # The threshold is above (k + c)/2 for this many corrupt neighbours, c:
    tolerated = 2 * sizes.threshold - sizes.degree - 1
    bad = members * hypergeom.sf(tolerated, members, spies, sizes.degree)
    assert bad * 2.0**GRINDING_BITS <= 2.0**-PRIVACY_BITS


@pytest.mark.parametrize("members", [1000, 10_000])
def test_without_room_for_it_a_ground_graph_is_bad(members):
    """Mutation: the sizes of semi_malicious fall to 2^64 tries, and to far fewer."""
    sizes = SecAggPlus().plan(members)
    tolerated = 2 * sizes.threshold - sizes.degree - 1
    bad = members * hypergeom.sf(tolerated, members, members // 20, sizes.degree)
    assert bad <= 2.0**-PRIVACY_BITS
    assert bad * 2.0**GRINDING_BITS > 1
