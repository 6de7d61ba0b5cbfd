"""Attacks 7 and 8: one share fewer than needed, and shares that were changed.

That fewer than threshold shares are uniform, for any holders, is in test_shamir.py; here it is what
conspirators get in a session.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lying_server import DIMENSION, TEN, LyingServer, looks_uniform
from secagg_modes import every_mode, flip

from codex_ray.errors import SumAborted
from codex_ray.secagg import unmask as unmask_module
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.messages import UnmaskShares
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

VICTIM, SPIES = 0, (5, 6, 7, 8, 9)
"""One spy fewer than the threshold of six."""


def conspiracy(protocol) -> LyingServer:
    """The spies hold their shares of both secrets; the server was shown no other."""
    server = LyingServer(protocol, spies=SPIES)
    server.until(Stage.UNMASK)
    server.enough = len(SPIES)
    assert server.sizes.threshold == len(SPIES) + 1
    assert len(server.shares["seed"][VICTIM]) == len(server.shares["escrow"][VICTIM]) == 5
    return server


@every_mode
def test_one_spy_less_than_the_threshold_learns_nothing(protocol):
    server = conspiracy(protocol)
    assert not server.rebuilt("seed", VICTIM) and not server.rebuilt("escrow", VICTIM)
    assert not server.reads(VICTIM)


def test_mutation_polynomials_of_one_degree_less_fall_to_them(monkeypatch):
    genuine = SecAggClient._deal

    def off_by_one(client, seed, escrow_key, peers, sizes):
        return genuine(
            client, seed, escrow_key, peers, replace(sizes, threshold=sizes.threshold - 1)
        )

    monkeypatch.setattr(SecAggClient, "_deal", off_by_one)
    server = conspiracy(SecAgg())
    assert server.has_both(VICTIM) and server.reads(VICTIM)


def test_the_numbers_of_both_secrets_are_those_of_the_holders():
    """One number twice, or another for the second secret, would rebuild something else."""
    server = LyingServer(SecAgg(), spies=TEN)
    server.until(Stage.UNMASK)
    for owner in TEN:
        assert server.holders_of(owner) == TEN
        for kind in ("seed", "escrow"):
            assert sorted(server.shares[kind][owner]) == list(range(1, 11))
            assert server.rebuilt(kind, owner)


# Attack 8: shares that were changed on the way.


def spoiled(liars, protocol) -> np.ndarray:
    """The sum of an honest session in which `liars` send every share with a bit changed."""
    server = LyingServer(protocol)
    server.until(Stage.UNMASK)
    inbox = {one: server.ask(one, request) for one, request in server.outbox.items()}
    for one in liars:
        wrong = {owner: flip(share) for owner, share in inbox[one].shares.items()}
        inbox[one] = UnmaskShares(wrong)
    with pytest.raises(StopIteration) as end:
        server.session.send(inbox)
    return end.value.value.groups[0].total - np.sum(list(server.parts.values()), axis=0)


@every_mode
@pytest.mark.parametrize("liars", [(0,), (9,), (0, 1), (2, 5)])
def test_wrong_shares_do_not_spoil_the_sum(protocol, liars):
    assert not spoiled(liars, protocol).any()


def test_more_wrong_shares_than_can_be_sorted_out_end_it():
    with pytest.raises(SumAborted, match="do not fit together"):
        spoiled((0, 1, 2), SecAgg())


def test_mutation_without_commitments_the_sum_is_garbage(monkeypatch):
    monkeypatch.setattr(unmask_module, "_is_genuine", lambda *_, **__: True)
    wrong = spoiled((9,), SecAgg())
    assert not wrong.any()  # The last share is not among the first six, which rebuild the secret.
    wrong = spoiled((0,), SecAgg())
    assert wrong.shape == (DIMENSION,) and looks_uniform(wrong.astype(np.uint32))
