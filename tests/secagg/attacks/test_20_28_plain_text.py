"""Attacks 20 and 28: what a client tells in the clear, in its frames or wherever it is printed.

All draws of two sessions are the same, so that whatever differs between them comes from what the
clients brought.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from lying_server import CONTEXT, TEN, LyingServer, small_summands
from secagg_modes import MODES, every_mode, mode_name
from secagg_replay import a_fixed_secret, drawing_from

from codex_ray.secagg import client as client_module
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage
from codex_ray.wire import read_frame


def transcript(protocol, parts) -> tuple[LyingServer, list[bytes]]:
    """A whole session with given draws and one late client, and every frame of it."""
    numbers = iter(range(10**6))

    def draw(count: int = 32) -> bytes:
        return b"".join(a_fixed_secret(next(numbers)) for _ in range(0, count, 32))[:count]

    with drawing_from(draw):
        server = LyingServer(protocol, parts=parts)
        server.until(Stage.MASKED_INPUT)
        inbox = {one: server.ask(one, request) for one, request in server.outbox.items()}
        inbox.pop(TEN[-1])
        server.outbox = server.session.send(inbox)
        server.finish()
    return server, server.frames


def that_differ(protocol) -> set[str]:
    """The kinds of frames that depend on what the clients brought."""
    zeros = {one: np.zeros(CONTEXT.dimension, dtype=np.uint32) for one in TEN}
    (_, some), (_, others) = (transcript(protocol, it) for it in (small_summands(TEN), zeros))
    assert len(some) == len(others) and [len(it) for it in some] == [len(it) for it in others]
    return {
        type(read_frame(one)).__name__
        for one, other in zip(some, others, strict=True)
        if one != other
    }


@every_mode
def test_only_masked_inputs_depend_on_what_a_client_brings(protocol):
    assert that_differ(protocol) == {"MaskedInput"}


@every_mode
def test_and_they_by_the_summand_only(protocol):
    """The same masks: so their difference is that of the summands, and nothing is added to it."""
    zeros = {one: np.zeros(CONTEXT.dimension, dtype=np.uint32) for one in TEN}
    (some, _), (others, _) = (transcript(protocol, it) for it in (small_summands(TEN), zeros))
    for one in TEN:
        first, second = (it.replies[Stage.MASKED_INPUT][one].words for it in (some, others))
        np.testing.assert_array_equal(first - second, small_summands(TEN)[one])


def test_mutation_a_number_of_examples_beside_the_vector_is_found(monkeypatch):
    """In the nonce of the advertisement, where nobody would notice."""
    genuine = SecAggClient._advertise

    def tells(client, request):
        advert = genuine(client, request)
        examples = int(client._summand[1]).to_bytes(4, "little")
        client._advert = replace(advert, nonce=advert.nonce[:28] + examples)
        return client._advert

    monkeypatch.setattr(SecAggClient, "_advertise", tells)
    found = that_differ(SecAgg(adversary="semi_honest"))
    assert {"AdvertisedKeys", "KeyDirectory"} <= found


# Attack 28: secrets in frames, reprs and tasks.


def secrets_of(client: SecAggClient) -> Iterator[bytes]:
    """What the client must not show, as long as it has it."""
    kept = client._secrets
    if kept is not None:
        yield from (kept.agreement.key.private_bytes_raw(), kept.seed)
        for keys in kept.pairs.values():
            yield from (keys.mask, keys.outward, keys.inward)
        for held in kept.held.values():
            yield from (held.seed, held.escrow)


def shown_secrets(protocol) -> set[bytes]:
    """The secrets found in a frame before the last trip, or in the repr of a client or message."""
    server, shown, secrets = LyingServer(protocol), [], set()
    while server.stage != Stage.UNMASK:
        server.trip()
        for client in server.clients.values():
            secrets |= set(secrets_of(client))
            shown.append(repr(client) + repr(vars(client)) + repr(client._secrets))
    shown += [repr(server.ask(one, request)) for one, request in server.outbox.items()]
    printed = "".join(shown)
    before = b"|".join(it for it in server.frames if read_frame(it).stage != Stage.UNMASK)
    assert len(secrets) > 10 * 9 * 3
    return {
        it for it in secrets if it in before or it.hex() in printed or repr(it)[2:-1] in printed
    }


@every_mode
def test_no_secret_is_shown(protocol):
    assert not shown_secrets(protocol)


@pytest.mark.parametrize("protocol", MODES[::2], ids=mode_name)
def test_mutation_a_commitment_that_is_the_secret_is_found(monkeypatch, protocol):
    monkeypatch.setattr(client_module, "commit", lambda secret, *_, **__: secret)
    assert len(shown_secrets(protocol)) == len(TEN)


def test_mutation_a_secret_in_a_repr_is_found(monkeypatch):
    monkeypatch.setattr(
        client_module._Secrets, "__repr__", lambda kept: f"_Secrets(seed={kept.seed.hex()})"
    )
    assert len(shown_secrets(SecAgg())) == len(TEN)
