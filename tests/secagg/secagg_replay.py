"""Sessions whose randomness is given: recorded as vectors, played again, or drawn from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from codex_ray.secagg import client as client_module
from codex_ray.secagg import keys as keys_module
from codex_ray.secagg import lattice, one_shot_client, one_shot_server, packed_shamir
from codex_ray.secagg import server as server_module
from codex_ray.secagg import shamir as shamir_module
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.identity import Enrolment, Identity, Membership
from codex_ray.secagg.keys import KeyPair
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.server import run_session
from codex_ray.types import ClientId, SessionContext, Stage, word_type
from codex_ray.wire import read_frame

DRAWING = (
    *(client_module, keys_module, server_module, shamir_module),
    *(lattice, one_shot_client, one_shot_server, packed_shamir),
)
"""The modules that draw secrets."""


@contextmanager
def drawing_from(source: Callable[[int], bytes]) -> Iterator[None]:
    """Secrets come from `source` for as long as this lasts."""
    with ExitStack() as patches:
        for module in DRAWING:
            patches.enter_context(mock.patch.object(module, "fresh_secret", source))
        yield


def a_fixed_secret(*name: str | int) -> bytes:
    """The 32 bytes that bear this name."""
    return hashlib.sha256(" ".join(map(str, name)).encode()).digest()


def a_fixed_identity(client: ClientId) -> Identity:
    """An identity that is the same in every process."""
    signing = Ed25519PrivateKey.from_private_bytes(a_fixed_secret("signing", client))
    return Identity(signing, KeyPair.of(a_fixed_secret("agreement", client)))


class Transcript:
    """A recorded session, as it stands in a file of tests/vectors/secagg."""

    PLAN: ClassVar[type] = Plan

    def __init__(self, kept: dict[str, Any]) -> None:
        """Read what json gives."""
        self.kept = kept
        raw = kept["context"]
        self.context = SessionContext(
            bytes.fromhex(raw["run"]),
            raw["round"],
            raw["attempt"],
            bytes.fromhex(raw["model_digest"]),
            raw["dimension"],
            raw["bits"],
        )
        self.plan = self.PLAN(**kept["plan"])
        self.members = tuple(int(one) for one in kept["clients"])
        self.enrolment = Enrolment(
            {int(one): bytes.fromhex(entry) for one, entry in kept["enrolment"].items()}
        )
        self.stages = [Stage[trip["stage"].upper()] for trip in kept["trips"]]

    def requests(self, stage: Stage) -> dict[ClientId, bytes]:
        """The frames of that trip to the clients."""
        return self._frames(stage, "requests")

    def replies(self, stage: Stage) -> dict[ClientId, bytes]:
        """The frames of that trip that came back in time."""
        return self._frames(stage, "replies")

    def _frames(self, stage: Stage, way: str) -> dict[ClientId, bytes]:
        trip = self.kept["trips"][self.stages.index(stage)]
        return {int(one): bytes.fromhex(frame) for one, frame in trip[way].items()}

    def summand(self, one: ClientId) -> np.ndarray:
        """What that client brings [d]."""
        kind = word_type(self.context.bits)
        return np.array(self.kept["clients"][str(one)]["summand"], dtype=kind)

    def identity(self, one: ClientId) -> Identity:
        """The long-lived keys of that client."""
        raw = self.kept["clients"][str(one)]
        return Identity(
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(raw["signing"])),
            KeyPair.of(bytes.fromhex(raw["agreement"])),
        )

    def client(self, one: ClientId) -> SecAggClient:
        """That client, about to be sent its first request."""
        return SecAggClient(
            one,
            self.context,
            self.summand(one),
            plan=lambda _: self.plan,
            membership=Membership(self.identity(one), self.enrolment),
        )

    def session(self):
        """The server's half, about to be begun."""
        return run_session(self.members, self.context, self.plan, enrolment=self.enrolment)

    def draws_of(self, actor: str) -> Callable[[int], bytes]:
        """The draws of "server" or of a client, one after the other."""
        listed = self.kept["server"] if actor == "server" else self.kept["clients"][actor]
        left = [bytes.fromhex(draw) for draw in listed["draws"]]

        def draw(count: int = 32) -> bytes:
            drawn = left.pop(0)
            assert len(drawn) == count, f"{count} bytes are drawn where {len(drawn)} were recorded"
            return drawn

        return draw

    def client_at(self, stage: Stage, one: ClientId) -> SecAggClient:
        """That client, with every trip before `stage` behind it, as it was recorded."""
        client = self.client(one)
        with drawing_from(self.draws_of(str(one))):
            for past in self.stages[: self.stages.index(stage)]:
                client.answer(read_frame(self.requests(past)[one]))
        return client


class _Dice:
    """Gives each actor bytes of its own, and remembers them."""

    def __init__(self, name: str) -> None:
        self.name, self.actor = name, "server"
        self.drawn: dict[str, list[str]] = {}

    def __call__(self, count: int = 32) -> bytes:
        earlier = self.drawn.setdefault(self.actor, [])
        root = a_fixed_secret(self.name, self.actor, len(earlier))
        drawn = hashlib.shake_256(root).digest(count)
        earlier.append(drawn.hex())
        return drawn


def record(
    name: str, plan: Plan, context: SessionContext, *, drops: dict[ClientId, Stage]
) -> dict[str, Any]:
    """A session of the clients 0, 1, ... with these sizes and dropouts, as a transcript to keep."""
    members = tuple(range(plan.members))
    identities = {one: a_fixed_identity(one) for one in members}
    enrolment = Enrolment({one: identities[one].public for one in members})
    top = 1 << context.bits
    summands = {
        one: [
            int.from_bytes(a_fixed_secret(name, "summand", one, at)[:8], "little") % top
            for at in range(context.dimension)
        ]
        for one in members
    }
    kept: dict[str, Any] = {
        "context": {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in asdict(context).items()
        },
        "plan": asdict(plan),
        "enrolment": {str(one): enrolment[one].hex() for one in members},
        "server": {},
        "clients": {
            str(one): {
                "signing": a_fixed_secret("signing", one).hex(),
                "agreement": a_fixed_secret("agreement", one).hex(),
                "summand": summands[one],
            }
            for one in members
        },
        "trips": [],
    }
    transcript, dice = Transcript(kept), _Dice(name)
    clients = {one: transcript.client(one) for one in members}
    with drawing_from(dice):
        _play(transcript, clients, dice, drops)
    for one in members:
        kept["clients"][str(one)]["draws"] = dice.drawn[str(one)]
    kept["server"]["draws"] = dice.drawn["server"]
    return kept


def _play(
    transcript: Transcript,
    clients: dict[ClientId, SecAggClient],
    dice: _Dice,
    drops: dict[ClientId, Stage],
) -> None:
    """Runs the session to its end, and adds its trips and its result to what is kept."""
    session, kept = transcript.session(), transcript.kept
    outbox = next(session)
    while True:
        inbox = {}
        for one, request in outbox.items():
            if request.stage < drops.get(one, Stage.DEBUG):
                dice.actor = str(one)
                inbox[one] = clients[one].answer(read_frame(request.to_frame()))
        dice.actor = "server"
        kept["trips"].append(
            {
                "stage": next(iter(outbox.values())).stage.name.lower(),
                "requests": {str(one): it.to_frame().hex() for one, it in outbox.items()},
                "replies": {str(one): it.to_frame().hex() for one, it in inbox.items()},
            }
        )
        if "session" not in kept and kept["trips"][-1]["stage"] == "share_keys":
            kept["session"] = next(iter(clients.values()))._session.hex()
        try:
            outbox = session.send({one: read_frame(it.to_frame()) for one, it in inbox.items()})
        except StopIteration as end:
            (group,) = end.value.groups
            kept["result"] = {
                "members": list(group.members),
                "total": group.total.tolist(),
                "masks_recovered": end.value.masks_recovered,
            }
            return
