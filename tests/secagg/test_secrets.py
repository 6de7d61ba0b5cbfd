"""No secret leaves a client: not in a frame, repr, copy or pickle; and its summand goes with it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from secagg_modes import (
    DEFAULT,
    DIMENSION,
    MEMBERS,
    client_at,
    dies_of,
    every_mode,
    residues,
    stages_of,
)
from secagg_network import Network, a_context, a_membership, a_session, an_identity

from codex_ray.errors import ProtocolError
from codex_ray.secagg import client as client_module
from codex_ray.secagg import identity as identity_module
from codex_ray.secagg import keys as keys_module
from codex_ray.secagg import shamir as shamir_module
from codex_ray.secagg.identity import SharedWork
from codex_ray.secagg.keys import KeyPair
from codex_ray.secagg.unmask import Alone
from codex_ray.types import Stage


@pytest.mark.parametrize(
    ("bits", "summand"),
    [
        (32, np.zeros(DIMENSION + 1, dtype=np.uint32)),
        (32, np.zeros((1, DIMENSION), dtype=np.uint32)),
        (32, np.zeros(DIMENSION, dtype=np.int64)),
        (32, np.zeros(DIMENSION, dtype=np.float32)),
        (32, np.zeros(DIMENSION, dtype=np.uint16)),
        (17, np.zeros(DIMENSION, dtype=np.uint16)),
        (16, np.zeros(DIMENSION, dtype=np.uint32)),
    ],
)
def test_a_summand_of_another_shape_or_type_is_refused(bits, summand):
    context = replace(a_context(DIMENSION), bits=bits)
    kind = "uint16" if bits == 16 else "uint32"
    why = rf"^client 0 refuses: the summand is {summand.dtype} .* sums {kind} \({DIMENSION},\)"
    with pytest.raises(ProtocolError, match=why):
        DEFAULT.client(0, context, summand)
    client, delivery = client_at(Stage.MASKED_INPUT, DEFAULT, context)
    client._summand = lambda: summand
    dies_of(client, delivery, why, delivery)


def test_a_session_takes_the_summand_over():
    """What is sent is the caller's array: a copy of a large model for each client would not fit."""
    context, words = a_context(DIMENSION), np.arange(DIMENSION, dtype=np.uint32)
    client, delivery = client_at(Stage.MASKED_INPUT, DEFAULT, context)
    client._summand = words
    masked = client.answer(delivery).words
    assert masked is words and words.tolist() != list(range(DIMENSION))
    assert client._summand is None


def test_a_summand_is_made_once_and_when_it_is_masked():
    made = []
    client, request = client_at(Stage.SHARE_KEYS)
    client._summand = lambda: made.append(1) or np.zeros(DIMENSION, dtype=np.uint32)
    client.answer(request)
    assert not made
    client, delivery = client_at(Stage.MASKED_INPUT)
    client._summand = lambda: made.append(1) or np.zeros(DIMENSION, dtype=np.uint32)
    client.answer(delivery)
    assert made == [1]


def test_a_summand_that_fails_to_be_made_ends_the_session():
    client, delivery = client_at(Stage.MASKED_INPUT)

    def broken():
        raise MemoryError

    client._summand = broken
    with pytest.raises(MemoryError):
        client.answer(delivery)
    assert client._secrets is None
    with pytest.raises(ProtocolError, match="session is at: over"):
        client.answer(delivery)


def secrets_of(client):
    """Every secret that the client holds, as bytes."""
    kept = client._secrets
    private = [kept.agreement.key.private_bytes_raw(), kept.seed]
    private += [kept.nonce] if client._reveals else []
    pairs = [key for it in kept.pairs.values() for key in (it.mask, it.outward, it.inward)]
    return private + pairs + [half for it in kept.held.values() for half in (it.seed, it.escrow)]


@every_mode
def test_no_secret_shows_in_a_repr(protocol):
    for stage in stages_of(protocol.adversary)[1:]:
        client, honest = client_at(stage, protocol)
        hidden = secrets_of(client)
        shown = repr(client) + repr(vars(client)) + repr(client._secrets)
        shown += repr(client._secrets.held) + repr(client._secrets.pairs)
        if stage == Stage.UNMASK:
            shown += repr(client.answer(honest))
        assert not any(secret.hex() in shown or repr(secret)[2:-1] in shown for secret in hidden)


@every_mode
def test_a_client_cannot_be_pickled_or_copied(protocol):
    for stage in stages_of(protocol.adversary):
        client, _ = client_at(stage, protocol)
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"client 0 holds secrets .* cannot be pickled"):
                attempt(client)
        for part in (client._secrets, client._membership):
            with pytest.raises(TypeError):
                pickle.dumps(part or an_identity(0))


def test_what_outlives_the_session_is_not_forgotten_with_it():
    """The identity is the caller's, and serves the next session."""
    client, request = client_at(Stage.UNMASK)
    client.answer(request)
    assert client._membership == a_membership(0, MEMBERS) and client._secrets is None


@pytest.mark.parametrize("remember", [False, True])
def test_the_shared_work_of_a_host_cannot_be_pickled(remember):
    shared, one, other = SharedWork(remember=remember), KeyPair.fresh(), KeyPair.fresh()
    secret = shared.agree(one, other.public, lasting=True)
    assert secret.hex() not in repr(shared) and repr(secret)[2:-1] not in repr(shared)
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            attempt(shared)


class Secrets:
    """What the clients of a session drew, agreed on and derived."""

    def __init__(self, monkeypatch):
        self.drawn, self.agreed, self.derived = [], [], []
        for module in (client_module, keys_module, shamir_module):
            self._keep(monkeypatch, module, "fresh_secret", self.drawn.append)
        self._keep(monkeypatch, identity_module.KeyPair, "agree", self.agreed.append)
        self._keep(monkeypatch, client_module, "self_mask_key", self.derived.append)
        self._keep(
            monkeypatch,
            client_module,
            "pair_keys",
            lambda keys: self.derived.extend((keys.mask, keys.outward, keys.inward)),
        )

    def _keep(self, monkeypatch, owner, name, keep):
        original = getattr(owner, name)

        def kept(*args, **kwargs):
            result = original(*args, **kwargs)
            keep(result)
            return result

        monkeypatch.setattr(owner, name, kept)


class Remembering(Network):
    """A network that keeps every frame that crosses it."""

    def _carry(self, message):
        frames = self.__dict__.setdefault("frames", [])
        frames.append(message.to_frame())
        return super()._carry(message)


class KeepsTasks(Alone):
    """A worker that keeps what its tasks look like on the way to another machine."""

    width = 3

    def __init__(self):
        self.frames = []

    def work(self, tasks):
        self.frames += [task.to_frame() for task in tasks]
        return super().work(tasks)


@every_mode
@pytest.mark.parametrize("drops", [{}, {1: Stage.MASKED_INPUT, 4: Stage.UNMASK}])
def test_no_frame_of_a_session_holds_a_secret(monkeypatch, protocol, drops):
    context, secrets, workers = a_context(64), Secrets(monkeypatch), KeepsTasks()
    parts = residues(MEMBERS, context)
    brought = {one: words.tobytes() for one, words in parts.items()}
    network = Remembering(
        {
            one: protocol.client(one, context, parts[one], membership=a_membership(one, MEMBERS))
            for one in MEMBERS
        },
        drops,
    )
    nonces = set()
    tamper = network.tamper

    def note_nonce(one, reply):
        kept = network.clients[one]._secrets
        nonces.update([kept.nonce] if kept else [])
        return tamper(one, reply)

    network.tamper = note_nonce
    network.run(a_session(protocol, MEMBERS, context, workers=workers))
    frames = b"|".join(network.frames + workers.frames)
    assert len(workers.frames) == 3 and len(nonces) == len(MEMBERS)
    # Nonces are drawn too, but shown in the end: that they are found shows that the search works.
    assert all(nonce in frames and nonce in secrets.drawn for nonce in nonces)
    private = [an_identity(one).agreement.key.private_bytes_raw() for one in MEMBERS]
    private += [an_identity(one).signing.private_bytes_raw() for one in MEMBERS]
    hidden = [*private, *secrets.agreed, *secrets.derived]
    hidden += [drawn for drawn in secrets.drawn if drawn not in nonces]
    # Two draws of 32 bytes and the polynomials of a client, its agreements, and three keys a pair.
    assert len(hidden) >= 12 + 6 * 3 + 6 * 5 + 6 * 16
    assert not any(secret in frames or secret[:16] in frames for secret in hidden)
    assert not any(summand[:16] in frames for summand in brought.values())
