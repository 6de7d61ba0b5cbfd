"""Attack 29: to learn from one dropout what opens other rounds.

Enrolled keys serve in every round. What is shared out, and rebuilt for a client that drops, is the
escrow key of that round; the published protocols would share out the private key itself, and with
it every masked input that the client ever sent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lying_server import CONTEXT, TEN, LyingServer, looks_uniform, small_summands
from secagg_network import an_identity

from codex_ray.secagg import shamir
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.keys import KeyPair, pair_keys, told
from codex_ray.secagg.prg import apply_masks
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

ENROLLED = SecAgg(keys="enrolled")
VICTIM = 4
ROUNDS = {"earlier": 0, "dropped": 1, "later": 2}


def play(round: int, *, silent=()) -> LyingServer:
    """One round of the same ten clients, in which the masked input of `silent` comes too late."""
    context = replace(CONTEXT, round=round, model_digest=bytes([round]) * 32)
    server = LyingServer(ENROLLED, context=context)
    server.until(Stage.MASKED_INPUT)
    inbox = {one: server.ask(one, request) for one, request in server.outbox.items()}
    server.outbox = server.session.send({k: v for k, v in inbox.items() if k not in silent})
    server.finish()
    return server


def three_rounds() -> dict[str, LyingServer]:
    """The victim survives, drops, and survives again."""
    return {
        name: play(round, silent=(VICTIM,) if name == "dropped" else ())
        for name, round in ROUNDS.items()
    }


def opened_by(secret: bytes, server: LyingServer):
    """The victim's words of a round, if `secret` were its private key, less what else is known."""
    pair, left = KeyPair.of(secret), server.bared(VICTIM)
    frames = server.asked[Stage.SHARE_KEYS][VICTIM].adverts
    adverts = {one: told(one, frame) for one, frame in frames.items()}
    masks = []
    for peer in server.shown_to(VICTIM):
        agreed = pair.agree(an_identity(peer).agreement.public)
        keys = pair_keys(agreed, server.digest, me=VICTIM, peer=peer, adverts=adverts)
        masks.append((keys.mask, peer > VICTIM))
    apply_masks(left, masks)
    return left


def what_was_rebuilt(server: LyingServer) -> bytes:
    """The secret of the victim that the shares of its holders give, whatever it is."""
    shares = server.shares["escrow"][VICTIM]
    return shamir.reconstruct(shares, threshold=server.threshold, secret_bytes=32)


@pytest.mark.parametrize("name", ["earlier", "later"])
def test_an_escrow_opens_its_own_round_only(name):
    rounds = three_rounds()
    dropped, other = rounds["dropped"], rounds[name]
    seeds = dropped.pair_seeds(VICTIM)
    assert set(seeds) == set(TEN) - {VICTIM} and dropped.rebuilt("escrow", VICTIM)
    # The self mask of the other round is off, for there the victim survived.
    assert other.rebuilt("seed", VICTIM) and not other.reads(VICTIM)
    left = other.bared(VICTIM)
    apply_masks(left, [(seed, peer > VICTIM) for peer, seed in seeds.items()])
    assert looks_uniform(left)
    assert looks_uniform(opened_by(what_was_rebuilt(dropped), other))


def test_what_is_rebuilt_is_no_long_lived_key():
    secret = what_was_rebuilt(three_rounds()["dropped"])
    lasting = an_identity(VICTIM)
    assert secret != lasting.agreement.key.private_bytes_raw()
    assert secret != lasting.signing.private_bytes_raw()
    assert KeyPair.of(secret).public != lasting.agreement.public


@pytest.mark.parametrize("name", ["earlier", "later"])
def test_mutation_a_private_key_that_is_shared_out_opens_every_round(monkeypatch, name):
    genuine = SecAggClient._deal

    def deal(client, seed, escrow_key, peers, sizes):
        private = client._secrets.agreement.key.private_bytes_raw()
        return genuine(client, seed, private, peers, sizes)

    rounds = {"earlier": play(0), "later": play(2)}
    monkeypatch.setattr(SecAggClient, "_deal", deal)
    context = replace(CONTEXT, round=1)
    dropped = LyingServer(ENROLLED, context=context)
    dropped.until(Stage.MASKED_INPUT)
    inbox = {one: dropped.ask(one, request) for one, request in dropped.outbox.items()}
    inbox.pop(VICTIM)
    dropped.outbox = dropped.session.send(inbox)
    dropped.until(Stage.UNMASK)
    for one, request in dropped.outbox.items():
        dropped.ask(one, request)
    left = opened_by(what_was_rebuilt(dropped), rounds[name])
    np.testing.assert_array_equal(left, small_summands(TEN)[VICTIM])
