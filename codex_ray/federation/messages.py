"""The messages of the round itself; those of secure aggregation are in `secagg.messages`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from codex_ray.types import ClientId, Stage
from codex_ray.wire import Floats, Message


@dataclass(frozen=True)
class TrainTask(Message, tag=1, stage=Stage.TRAIN):
    """Server to client, the only broadcast: train from these parameters in this attempt."""

    run: bytes
    round: int
    attempt: int
    params: Floats  # [d]
    mechanism: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """The mechanism's public state; empty for most."""
    opening: bytes = b""
    """The frame that begins the session, where it is the same for whoever is there: each client
    answers it in place of this one as soon as it has trained. Empty where it has to wait."""


@dataclass(frozen=True)
class Trained(Message, tag=2, stage=Stage.TRAIN):
    """Client to server: training is done. The update itself stays with the client, for now.

    `identity` is the public half of its identity, for the enrolment list; empty where the protocol
    needs none.
    """

    identity: bytes


@dataclass(frozen=True)
class EnrolmentList(Message, tag=5, stage=Stage.ENROL):
    """The simulator, as the authority that admits clients: everyone's public identity.

    In the field this list comes from somebody who is not the server. Here one process plays both.
    """

    entries: dict[ClientId, bytes]


@dataclass(frozen=True)
class Enrolled(Message, tag=6, stage=Stage.ENROL):
    """Client to the simulator: the list is there, and holds its own identity."""


@dataclass(frozen=True)
class DebugRequest(Message, tag=3, stage=Stage.DEBUG):
    """The simulator's own question, outside the protocol and outside the guarantee."""


@dataclass(frozen=True)
class DebugReport(Message, tag=4, stage=Stage.DEBUG):
    """What no real server would see: an update's norm, and what became of the gradients in it."""

    figures: Floats  # [5]: norm before encoding, norm after; records met, clipped, not finite
