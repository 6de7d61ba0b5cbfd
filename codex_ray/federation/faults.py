"""Clients that go silent, drawn ahead: the scenario's dropouts, never the infrastructure's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from codex_ray.federation.messages import TrainTask
from codex_ray.federation.transport import Frames, Transport
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component, Stage
from codex_ray.wire import Frame, FrameReader, kind_of


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
        self._cut: tuple[Frame, Frame] = (b"", b"")
        """A task, and what is left of it without the request that comes with it."""

    @property
    def lost(self) -> frozenset[ClientId]:
        """Passes on."""
        return self._inner.lost

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies of those who are still there; frames to the silent ones are lost."""
        reader = FrameReader()
        outbox = {one: self._heard(one, frame, reader) for one, frame in outbox.items()}
        return self._inner.exchange(
            {
                client: frame
                for client, frame in outbox.items()
                if kind_of(frame).stage < self._silent[client]
                or kind_of(frame).stage is Stage.DEBUG
            }
        )

    def _heard(self, client: ClientId, frame: Frame, reader: FrameReader) -> Frame:
        """What of the frame the client hears; a task tells how far it comes in this round.

        One that trains and then falls silent does not hear the request that comes with the task.
        """
        if kind_of(frame).stage is not Stage.TRAIN:
            return frame
        task = reader.read(frame)
        assert isinstance(task, TrainTask)  # Nothing else goes out then.
        falls = self._dropouts.silent_from(client, task.round, self._public)
        self._silent[client] = Stage.DEBUG if falls is None else falls
        if not task.opening or self._silent[client] > kind_of(task.opening).stage:
            return frame
        alone, cut = self._cut
        if alone is not frame:
            cut = replace(task, opening=b"").to_frame()
            self._cut = (frame, cut)
        return cut

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
