"""Clients that go silent, drawn ahead: the scenario's dropouts, never the infrastructure's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from codex_ray.federation.messages import TrainTask
from codex_ray.federation.transport import Frames, Transport
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component, Stage
from codex_ray.wire import Frame, kind_of


class Dropouts(Component):
    """A client's chance to go silent at each point of a round, drawn independently of its data.

    Independence is what lets the ledger charge only those whose summand was released.
    """

    before_keys: float = Field(default=0, ge=0, lt=1, description="Never advertises its keys.")
    after_keys: float = Field(
        default=0, ge=0, lt=1, description="Advertised keys, sends no shares."
    )
    after_shares: float = Field(
        default=0, ge=0, lt=1, description="Sent its shares, sends no masked input."
    )
    after_masked_input: float = Field(
        default=0, ge=0, lt=1, description="Sent its masked input (and is in the sum), then silent."
    )

    @property
    def any(self) -> bool:
        """Whether anyone can drop out at all."""
        return any((self.before_keys, self.after_keys, self.after_shares, self.after_masked_input))

    @property
    def chance(self) -> float:
        """The chance of a client to be missing from a sum, or from its unmasking."""
        points = (self.before_keys, self.after_keys, self.after_shares, self.after_masked_input)
        return 1 - math.prod(1 - chance for chance in points)

    def silent_from(self, client: ClientId, round: int, public: SeedTree) -> Stage | None:
        """The first stage that the client does not answer in this round; None: it stays."""
        draws = public.stream("dropouts", round, client).uniform(4)
        chances = {
            Stage.ADVERTISE_KEYS: self.before_keys,
            Stage.SHARE_KEYS: self.after_keys,
            Stage.MASKED_INPUT: self.after_shares,
            Stage.UNMASK: self.after_masked_input,
        }
        for draw, (stage, chance) in zip(draws, chances.items(), strict=True):
            if draw < chance:
                return stage
        return None


class FaultyTransport:
    """A transport on which the drawn clients fall silent, and nothing else changes."""

    def __init__(self, inner: Transport, dropouts: Dropouts, public: SeedTree) -> None:
        self._inner = inner
        self._dropouts = dropouts
        self._public = public
        self._silent: dict[ClientId, Stage] = {}

    @property
    def lost(self) -> frozenset[ClientId]:
        """Passes on."""
        return self._inner.lost

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies of those who are still there; frames to the silent ones are lost."""
        for client, frame in outbox.items():
            if issubclass(kind_of(frame), TrainTask):
                stage = self._dropouts.silent_from(
                    client, TrainTask.from_frame(frame).round, self._public
                )
                self._silent[client] = stage if stage is not None else Stage.DEBUG
        return self._inner.exchange(
            {
                client: frame
                for client, frame in outbox.items()
                if kind_of(frame).stage < self._silent[client]
                or kind_of(frame).stage is Stage.DEBUG
            }
        )

    @property
    def width(self) -> int:
        """Passes on."""
        return self._inner.width

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """Passes on: what the server does itself knows no dropouts."""
        return self._inner.work(tasks)

    def recover(self) -> None:
        """Passes on."""
        self._inner.recover()

    def close(self) -> None:
        """Passes on."""
        self._inner.close()
