"""Clients that go silent, drawn ahead: the scenario's dropouts, never the infrastructure's.

Every kind of silence is a pure function of the client, the round and public streams, so a scenario
is replayed to the bit on any hosts, and nobody's data or company has a part in who is silent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.federation.field import Devices, FieldClock, Load
from codex_ray.federation.folding import weight_of
from codex_ray.federation.messages import Trained, TrainTask
from codex_ray.federation.transport import Frames, Passing, Transport
from codex_ray.randomness import SeedTree
from codex_ray.secagg.messages import FoldedInput
from codex_ray.secagg.one_shot_messages import FoldedUpload
from codex_ray.types import ClientId, Component, Stage
from codex_ray.wire import Frame, FrameReader, kind_of, read_frame


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


class Flaky(Component):
    """Clients that are not always there: each has an availability of its own, drawn once.

    Availabilities are Beta distributed. Whoever is away in a round does not hear of it.
    """

    availability: float = Field(
        gt=0, lt=1, description="Fraction of rounds that clients are there for, on average."
    )
    evenness: float = Field(
        default=4,
        gt=0,
        description="a + b of the Beta distribution: large, and all clients are alike; "
        "near 0, and most are always there or never.",
    )

    def away(self, client: ClientId, round: int, public: SeedTree) -> bool:
        """Whether the client is away in this round."""
        usual = public.stream("availability", client).numpy()
        mean, total = self.availability, self.evenness
        own = usual.beta(mean * total, (1 - mean) * total)
        return bool(public.stream("away", round, client).uniform(1)[0] >= own)


Trip: TypeAlias = Literal[
    "train",
    "enrol",
    "advertise_keys",
    "reveal_nonces",
    "share_keys",
    "masked_input",
    "confirm_survivors",
    "unmask",
]
"""A trip of a round, by the name of its stage; DEBUG is none that clients know of."""


class Mute(Component):
    """Clients that take part in every round up to one trip, and never answer that one.

    Under secure aggregation the worst that a client can do by silence alone: who never sends a
    masked input costs its neighbours a recovery, who never unmasks costs them a share.
    """

    clients: tuple[ClientId, ...] = Field(default=(), description="Chosen ones, by number.")
    share: float = Field(
        default=0, ge=0, lt=1, description="Chance of any client to be one, drawn once."
    )
    stage: Trip = Field(
        default="masked_input",
        description="The first trip that they do not answer; where the protocol has no such trip, "
        "the next one that it has.",
    )

    def is_one(self, client: ClientId, public: SeedTree) -> bool:
        """Whether the client is chosen, or drawn."""
        if client in self.clients:
            return True
        return bool(self.share and public.stream("mute", client).uniform(1)[0] < self.share)

    def chance(self, population: int) -> float:
        """The chance of a client, any of the population alike, to be one."""
        chosen = len({one for one in self.clients if one < population}) / population
        return 1 - (1 - chosen) * (1 - self.share)


class Faults(Component):
    """Whoever is too slow, away or mute in a round, beside those who drop out by chance."""

    devices: Devices | None = Field(
        default=None, description="Devices and networks: a virtual clock, and who is too slow."
    )
    flaky: Flaky | None = Field(default=None, description="Clients that are not always there.")
    mute: Mute | None = Field(default=None, description="Clients that stop at a trip, always.")

    @property
    def any(self) -> bool:
        """Whether anyone can fall silent by any of these, or time is kept."""
        return any(it is not None for it in (self.devices, self.flaky, self.mute))

    @property
    def uneven(self) -> bool:
        """Whether some clients fall silent more often than others, round after round."""
        late = self.devices is not None and self.devices.drops
        return late or self.flaky is not None or self.mute is not None

    def check(self, population: int) -> None:
        """Refuses clients that there are not.

        Raises:
            ConfigError: a chosen client's number is not below the population.
        """
        beyond = [one for one in (self.mute.clients if self.mute else ()) if one >= population]
        if beyond:
            raise ConfigError(
                f"federation.faults.mute.clients names {beyond[0]}, but there are only "
                f"{population} clients, counted from 0: leave it out"
            )

    def chance(self, population: int, load: Load | None = None) -> float:
        """The chance of a client to be missing from a sum, or from its unmasking, from above.

        It is the chance over clients and rounds together: who is slow, flaky or mute is so again
        and again. Without `load` nobody is late.
        """
        flaky = 0.0 if self.flaky is None else 1 - self.flaky.availability
        mute = 0.0 if self.mute is None else self.mute.chance(population)
        late = 0.0 if self.devices is None or load is None else self.devices.chance_late(load)
        return 1 - (1 - flaky) * (1 - mute) * (1 - late)

    def silent_from(
        self, client: ClientId, round: int, public: SeedTree, *, load: Load
    ) -> Stage | None:
        """The first stage that the client does not answer in this round; None: it stays."""
        found: list[Stage | None] = []
        if self.flaky is not None and self.flaky.away(client, round, public):
            found.append(Stage.TRAIN)
        if self.mute is not None and self.mute.is_one(client, public):
            found.append(Stage[self.mute.stage.upper()])
        if self.devices is not None:
            found.append(self.devices.late_from(client, round, public, load=load))
        return min((stage for stage in found if stage is not None), default=None)


class FaultyTransport(Passing[Transport]):
    """A transport on which the drawn clients fall silent, and nothing else changes."""

    def __init__(
        self,
        inner: Transport,
        dropouts: Dropouts,
        public: SeedTree,
        *,
        faults: Faults | None = None,
        load: Load | None = None,
        clock: FieldClock | None = None,
    ) -> None:
        """Over `inner`, with silence drawn from `public`.

        Args:
            inner: the transport that carries what is heard.
            dropouts: who drops out by chance.
            public: the tree of public streams.
            faults: who is too slow, away or mute.
            load: by which it is judged who is too slow.
            clock: which is told of every trip.
        """
        super().__init__(inner)
        self._dropouts = dropouts
        self._public = public
        self._faults = faults or Faults()
        self._load = load or Load()
        self._clock = clock
        self._silent: dict[ClientId, Stage] = {}
        self._cut: tuple[Frame, Frame] = (b"", b"")
        """A task, and what is left of it without the request that comes with it."""

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies of those who are still there; frames to the silent ones are lost."""
        reader = FrameReader()
        first = next(iter(outbox.values()), None)  # every trip is of one stage
        if first is not None and kind_of(first).stage is Stage.TRAIN:
            self._silent.clear()  # a round's draws, or they would grow to the population's
        heard = {one: self._heard(one, frame, reader) for one, frame in outbox.items()}
        inbox = self._inner.exchange(
            {
                client: frame
                for client, frame in heard.items()
                if kind_of(frame).stage < self._silent[client]
                or kind_of(frame).stage is Stage.DEBUG
            }
        )
        if self._clock is not None:
            _tell(self._clock, outbox, inbox, lost=self.lost)
        return inbox

    def _heard(self, client: ClientId, frame: Frame, reader: FrameReader) -> Frame:
        """What of the frame the client hears; a task tells how far it comes in this round.

        One that trains and then falls silent does not hear the request that comes with the task.
        """
        if kind_of(frame).stage is not Stage.TRAIN:
            return frame
        task = reader.read(frame)
        assert isinstance(task, TrainTask)  # Nothing else goes out then.
        self._silent[client] = self._falls(client, task.round)
        if not task.opening or self._silent[client] > kind_of(task.opening).stage:
            return frame
        alone, cut = self._cut
        if alone is not frame:
            cut = replace(task, opening=b"").to_frame()
            self._cut = (frame, cut)
        return cut

    def _falls(self, client: ClientId, round: int) -> Stage:
        """The first stage that the client does not answer, by whatever comes first."""
        falls = (
            self._dropouts.silent_from(client, round, self._public),
            self._faults.silent_from(client, round, self._public, load=self._load),
        )
        return min((stage for stage in falls if stage is not None), default=Stage.DEBUG)


def _tell(
    clock: FieldClock,
    outbox: Frames,
    inbox: Mapping[ClientId, bytes],
    *,
    lost: frozenset[ClientId],
) -> None:
    """Tells the clock of a trip: what was sent to each client, and what it would have sent itself.

    A lost host is a fault of the simulation's own: nobody would have waited for its clients.
    """
    asked = {client: frame for client, frame in outbox.items() if client not in lost}
    if not asked:
        return
    first = next(iter(asked.values()))
    opens = bool(getattr(read_frame(first), "opening", b""))
    answered = {
        client: _weight(frame)
        for client, frame in inbox.items()
        if client in asked and not (opens and kind_of(frame) is Trained)
    }
    down = {client: len(frame) for client, frame in asked.items()}
    clock.trip(kind_of(first).stage, down, answered, opens=opens)


def _weight(frame: bytes) -> int:
    """The bytes that the client would have sent if no host had folded its summand away."""
    if kind_of(frame) not in (FoldedInput, FoldedUpload):
        return len(frame)
    return weight_of(read_frame(frame))
