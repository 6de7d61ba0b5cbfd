"""The messages of the round itself; those of secure aggregation are in `secagg.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.types import Stage
from codex_ray.wire import Floats, Message


@dataclass(frozen=True)
class TrainTask(Message, tag=1, stage=Stage.TRAIN):
    """Server to client, the only broadcast: train from these parameters in this attempt."""

    run: bytes
    round: int
    attempt: int
    params: Floats  # [d]


@dataclass(frozen=True)
class Trained(Message, tag=2, stage=Stage.TRAIN):
    """Client to server: training is done. The update itself stays with the client."""


@dataclass(frozen=True)
class DebugRequest(Message, tag=3, stage=Stage.DEBUG):
    """The simulator's own question, outside the protocol and outside the guarantee."""


@dataclass(frozen=True)
class DebugReport(Message, tag=4, stage=Stage.DEBUG):
    """What no real server would see: the norm of an update, before and after its encoding."""

    figures: Floats  # [2]: norm before encoding, norm after
