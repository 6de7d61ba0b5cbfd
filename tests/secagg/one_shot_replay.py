"""One-shot sessions whose randomness is given: recorded as vectors, and played again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from secagg_replay import Transcript, _Dice, a_fixed_identity, a_fixed_secret, drawing_from

from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.identity import Membership
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.types import ClientId, SessionContext, Stage, word_type
from codex_ray.wire import read_frame


class OneShotTranscript(Transcript):
    """A recorded one-shot session, as it stands in a file of tests/vectors/secagg."""

    PLAN = CommitteePlan

    def words(self, raw: str) -> np.ndarray:
        """A vector [d] of residues, from its bytes in hex."""
        kind = word_type(self.context.bits).newbyteorder("<")
        return np.frombuffer(bytes.fromhex(raw), dtype=kind).astype(kind.newbyteorder("="))

    def summand(self, one: ClientId) -> np.ndarray:
        """What that client brings [d]."""
        return self.words(self.kept["clients"][str(one)]["summand"])

    def client(self, one: ClientId) -> OneShotClient:
        """That client, about to be sent its first request."""
        return OneShotClient(
            one,
            self.context,
            self.summand(one),
            membership=Membership(self.identity(one), self.enrolment),
            plan=lambda _: self.plan,
        )

    def session(self):
        """The server's half, about to be begun."""
        return run_one_shot(self.members, self.context, self.plan, enrolment=self.enrolment.digest)


def a_summand(name: str, one: ClientId, context: SessionContext) -> bytes:
    """The bytes of the residues that bear these names."""
    size = word_type(context.bits).itemsize
    drawn = b"".join(
        a_fixed_secret(name, "summand", one, at)[:size] for at in range(context.dimension)
    )
    words = np.frombuffer(drawn, dtype=f"<u{size}")
    return (words & words.dtype.type((1 << context.bits) - 1)).tobytes()


def record_one_shot(
    name: str, plan: CommitteePlan, context: SessionContext, *, drops: dict[ClientId, Stage]
) -> dict[str, Any]:
    """A session of the clients 0, 1, ... with these sizes and dropouts, as a transcript to keep."""
    members = tuple(range(plan.members))
    kept: dict[str, Any] = {
        "context": {
            key: value.hex() if isinstance(value, bytes) else value
            for key, value in asdict(context).items()
        },
        "plan": asdict(plan),
        "enrolment": {str(one): a_fixed_identity(one).public.hex() for one in members},
        "server": {},
        "clients": {
            str(one): {
                "signing": a_fixed_secret("signing", one).hex(),
                "agreement": a_fixed_secret("agreement", one).hex(),
                "summand": a_summand(name, one, context).hex(),
                "draws": [],
            }
            for one in members
        },
        "trips": [],
    }
    transcript, dice = OneShotTranscript(kept), _Dice(name)
    with drawing_from(dice):
        _play(transcript, dice, drops)
    for one in members:
        kept["clients"][str(one)]["draws"] = dice.drawn.get(str(one), [])
    kept["server"]["draws"] = dice.drawn["server"]
    return kept


def _play(transcript: OneShotTranscript, dice: _Dice, drops: dict[ClientId, Stage]) -> None:
    """Runs the session to its end, and adds its trips and its result to what is kept."""
    clients = {one: transcript.client(one) for one in transcript.members}
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
        kept["session"] = next(
            clients[one]._opening.session.hex() for one in inbox if clients[one]._opening
        )
        try:
            outbox = session.send({one: read_frame(it.to_frame()) for one, it in inbox.items()})
        except StopIteration as end:
            (group,) = end.value.groups
            kept["result"] = {
                "members": list(group.members),
                "total": group.total.astype(group.total.dtype.newbyteorder("<")).tobytes().hex(),
            }
            return
