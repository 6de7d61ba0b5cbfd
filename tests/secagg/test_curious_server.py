"""What a server can compute from everything that it saw of an honest session: the sum, and no more.

It follows the protocol and keeps every frame. What one that lies can get is in attacks/.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from lying_server import (
    CONTEXT,
    TEN,
    LyingServer,
    looks_uniform,
    planned_server,
    small_summands,
)
from secagg_modes import every_mode
from secagg_network import Network, a_network, a_session, plain_sum

from codex_ray.secagg import client as client_module
from codex_ray.secagg import unmask as unmask_module
from codex_ray.secagg.messages import AdvertiseRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage


def after_dropouts(server: LyingServer, late):
    """The sum of a session that some leave; the masked inputs of `late` come, but too late."""
    server.until(Stage.SHARE_KEYS)
    silent = {8}
    while True:
        inbox = {one: server.ask(one, it) for one, it in server.outbox.items() if one not in silent}
        if server.stage == Stage.MASKED_INPUT:
            inbox = {one: it for one, it in inbox.items() if one not in late}
            silent |= {1}
        try:
            server.outbox = server.session.send(inbox)
        except StopIteration as end:
            assert not server.refusals
            return end.value.groups[0]


def check_what_is_learnt(server: LyingServer, *late: int) -> None:
    group = after_dropouts(server, late)
    assert set(group.members) == set(TEN) - {8, *late}
    for one in TEN:
        assert (server.rebuilt("seed", one) is not None) == (one in group.members)
        assert (server.rebuilt("escrow", one) is not None) == (one in late)
    left = {}
    for one, reply in server.replies[Stage.MASKED_INPUT].items():
        assert looks_uniform(reply.words) and not server.reads(one)
        left[one] = server.bared(one)
    # The attack is the real one: what it leaves on the survivors cancels, and gives the sum.
    np.testing.assert_array_equal(plain_sum(left, group.members), group.total)
    np.testing.assert_array_equal(plain_sum(server.parts, group.members), group.total)


@every_mode
def test_a_transcript_gives_the_sum_and_no_summand(protocol):
    check_what_is_learnt(LyingServer(protocol), 4, 7)


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
def test_on_a_sparse_graph_too(adversary):
    check_what_is_learnt(planned_server(Plan(10, 8, 5, 6, adversary)), 4)


def test_mutation_without_masks_the_same_transcript_gives_every_summand(monkeypatch):
    for module in (client_module, unmask_module):
        monkeypatch.setattr(module, "apply_masks", lambda *_: None)
    server = LyingServer(SecAgg())
    after_dropouts(server, (4, 7))
    for one, reply in server.replies[Stage.MASKED_INPUT].items():
        np.testing.assert_array_equal(reply.words, server.parts[one])
        assert not looks_uniform(reply.words)


# What a client is told about the sizes is for all or for none.


def run_with_a_lie(protocol, told: AdvertiseRequest) -> tuple[tuple[int, ...], Network]:
    """The members of a session in which client 0 is told other sizes than the rest."""
    network = a_network(protocol, TEN, CONTEXT, small_summands(TEN))
    session = a_session(protocol, TEN, CONTEXT)

    def with_a_lie():
        outbox = next(session)
        inbox = yield outbox | {0: replace(told, nonce=outbox[0].nonce)}
        while True:
            try:
                inbox = yield session.send(inbox)
            except StopIteration as end:
                return end.value

    return network.run(with_a_lie()).members, network


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (AdvertiseRequest(10, 9, 6, b""), "threshold 6 .* its own settings give 9 and 7"),
        (AdvertiseRequest(10, 9, 8, b""), "threshold 8 .* its own settings give 9 and 7"),
        (AdvertiseRequest(10, 8, 7, b""), "degree 8 .* its own settings give 9 and 7"),
    ],
)
def test_a_client_that_is_told_other_sizes_than_the_rest_stays_out(told, why):
    members, network = run_with_a_lie(SecAgg(assumed_corrupt=0.3), told)
    assert members == TEN[1:]
    assert set(network.refusals) == {0} and re.search(why, network.refusals[0])
    assert 0 not in network.answered[Stage.MASKED_INPUT]


@pytest.mark.parametrize("told", [AdvertiseRequest(9, 8, 7, b""), AdvertiseRequest(3, 2, 3, b"")])
def test_sizes_that_fit_each_other_are_signed_for_and_so_found(told):
    """What it signs names the sizes that it was told: to the others that is no signature."""
    members, network = run_with_a_lie(SecAgg(assumed_corrupt=0.3), told)
    assert members == TEN[1:] and not network.refusals
    assert 0 not in network.sent[Stage.SHARE_KEYS]
