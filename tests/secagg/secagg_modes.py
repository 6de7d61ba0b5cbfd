"""All modes of a masked session, and a client that is partway through one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from secagg_network import a_context, a_membership, an_enrolment

from codex_ray.errors import ProtocolError
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import ClientId, Residues, SessionContext, Stage, word_type
from codex_ray.wire import Message

DIMENSION = 4
MEMBERS = tuple(range(6))
LATE = 5
"""Its masked input does not come in time."""
ADVERSARIES = ("semi_honest", "semi_malicious", "malicious")
MODES = [
    SecAgg(adversary=adversary, keys=keys)
    for adversary, keys in itertools.product(ADVERSARIES, ("session", "enrolled"))
]
CONFIRMING = MODES[2:]
"""Those in which clients sign for each other who survived."""
DEFAULT, CAREFUL = SecAgg(), SecAgg(adversary="malicious")


def mode_name(protocol) -> str:
    """What tells one mode from another."""
    return f"{protocol.adversary}-{protocol.keys}"


every_mode = pytest.mark.parametrize("protocol", MODES, ids=mode_name)


def stages_of(adversary: str) -> list[Stage]:
    """The trips that a session takes under that adversary."""
    left_out = {
        "semi_honest": {Stage.REVEAL_NONCES, Stage.CONFIRM_SURVIVORS},
        "semi_malicious": {Stage.REVEAL_NONCES},
        "malicious": set(),
    }[adversary]
    trips = (stage for stage in Stage if Stage.ADVERTISE_KEYS <= stage <= Stage.UNMASK)
    return [stage for stage in trips if stage not in left_out]


def residues(members: tuple[ClientId, ...], context: SessionContext) -> dict[ClientId, Residues]:
    """A uniform summand [d] modulo 2^bits for each member."""
    kind = word_type(context.bits)
    top = kind.type((1 << context.bits) - 1)
    raw = {one: os.urandom(kind.itemsize * context.dimension) for one in members}
    return {one: np.frombuffer(it, dtype=kind) & top for one, it in raw.items()}


def residue_sum(
    parts: Mapping[ClientId, Residues], members: tuple[ClientId, ...], context: SessionContext
) -> Residues:
    """The sum [d] that every protocol has to give, in integers."""
    total = sum(parts[one].astype(object) for one in members) % (1 << context.bits)
    return total.astype(word_type(context.bits))


def client_at(stage: Stage, protocol=DEFAULT, context=None) -> tuple[SecAggClient, Message]:
    """Client 0 with all stages before `stage` behind it, and the honest request of that stage."""
    context = context or a_context(DIMENSION)
    parts = residues(MEMBERS, context)
    clients = {
        one: protocol.client(one, context, parts[one], membership=a_membership(one, MEMBERS))
        for one in MEMBERS
    }
    session = protocol.session(MEMBERS, context, enrolment=an_enrolment(MEMBERS))
    outbox = next(session)
    while outbox[0].stage != stage:
        masking = outbox[0].stage == Stage.MASKED_INPUT
        outbox = session.send(
            {
                one: clients[one].answer(request)
                for one, request in outbox.items()
                if not (masking and one == LATE)
            }
        )
    return clients[0], outbox[0]


def dies_of(client: SecAggClient, request: Message, why: str, honest: Message) -> None:
    """The client refuses `request` for that reason, and afterwards even the honest one."""
    with pytest.raises(ProtocolError, match=why):
        client.answer(request)
    assert client._secrets is None and client._summand is None
    with pytest.raises(ProtocolError, match="session is at: over"):
        client.answer(honest)


def refuses(client: SecAggClient, request: Message, why: str, honest: Message) -> None:
    """The same, where the client says itself that it refuses."""
    dies_of(client, request, f"^client 0 refuses: .*{why}", honest)


def without(message, *gone: ClientId, field: str):
    """`message` without the entries of `gone` in `field`."""
    kept = {one: it for one, it in getattr(message, field).items() if one not in gone}
    return replace(message, **{field: kept})


def flip(raw: bytes, at: int = 0) -> bytes:
    """`raw` with one bit changed."""
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
