"""What a round would have taken in the field: devices drawn for the clients, and a virtual clock.

A device is drawn once for each client, and wobbles from round to round. The time of a trip is

    round trip + bytes down / download + bytes up / upload + records x seconds per record,

and a trip ends when everyone asked has answered, or at its deadline. The clock only adds up: it
never waits, reads no clock of the machine, and says the same on one host and on ten.

Who is late is decided here too, and before anything is sent, from what is the same for everyone:
the length of the parameters, that of a summand, and a number of records that the experiment names.
Neither the client's data nor the rest of the cohort has a part in it, for two reasons. A ledger
charges only those whose summand is in the sum, which is sound as long as missing it has nothing to
do with the data: a client that is late *because* it holds one record more would show that record by
its silence. And the noise hides one client's summand: were a second one late because the first was
there (a secure sum's messages grow with the neighbours that answer), the sum would change by both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component, Stage

DEVICE: Final = "device"
"""The streams of what clients have to compute and to send with."""
BINS: Final = 512
"""Into so many bins of equal chance a quantity is cut, and the last one into smaller ones."""

Figures = npt.NDArray[np.float64]


class Quantity(Component):
    """A lognormal quantity: its median, how clients differ, and how one client's rounds differ."""

    median: float = Field(gt=0, description="Half of all clients have less.")
    spread: float = Field(
        default=0, ge=0, le=5, description="Deviation of the logarithm between clients."
    )
    wobble: float = Field(
        default=0, ge=0, le=5, description="Deviation of the logarithm between a client's rounds."
    )

    def of(self, between: float, within: float) -> float:
        """The value for two standard normals: the client's, and that of its round."""
        return self.median * math.exp(self.spread * between + self.wobble * within)

    @property
    def deviation(self) -> float:
        """Of the logarithm, over clients and rounds together."""
        return math.hypot(self.spread, self.wobble)


@dataclass(frozen=True)
class Load:
    """What every client of a run has to move: the same for all, and known before anyone is asked.

    Attributes:
        down: bytes of the parameters.
        up: bytes of a summand, without what a protocol adds: so every protocol has the same
            survivors.
    """

    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class Device:
    """One client's device in one round: seconds per record, bytes per second, seconds."""

    seconds_per_record: float
    download: float
    upload: float
    round_trip: float

    def seconds(self, *, down: float = 0, up: float = 0, records: float = 0) -> float:
        """The time of a trip with so many bytes each way and so many records trained on."""
        moved = down / self.download + up / self.upload
        return self.round_trip + moved + records * self.seconds_per_record


_LIKE: Final[dict[str, dict[str, dict[str, float]]]] = {
    "phones": {
        "seconds_per_record": {"median": 0.02, "spread": 0.7, "wobble": 0.3},
        "download": {"median": 2.5e6, "spread": 0.9, "wobble": 0.4},
        "upload": {"median": 8e5, "spread": 0.9, "wobble": 0.4},
        "round_trip": {"median": 0.08, "spread": 0.5, "wobble": 0.3},
    },
    "hospitals": {
        "seconds_per_record": {"median": 0.002, "spread": 0.4, "wobble": 0.1},
        "download": {"median": 2.5e7, "spread": 0.5, "wobble": 0.1},
        "upload": {"median": 1.2e7, "spread": 0.5, "wobble": 0.1},
        "round_trip": {"median": 0.02, "spread": 0.3, "wobble": 0.1},
    },
}
"""Round numbers to begin with, measured by nobody: whoever has figures puts in their own."""


class Devices(Component):
    """The clients' devices and networks; with a deadline, whoever is too slow falls silent."""

    like: Literal["phones", "hospitals"] = Field(
        default="phones", description="Where what is not given below comes from: round numbers."
    )
    seconds_per_record: Quantity = Field(
        default=Quantity(**_LIKE["phones"]["seconds_per_record"]),
        description="Of training, for each record.",
    )
    download: Quantity = Field(
        default=Quantity(**_LIKE["phones"]["download"]), description="Bytes per second."
    )
    upload: Quantity = Field(
        default=Quantity(**_LIKE["phones"]["upload"]), description="Bytes per second."
    )
    round_trip: Quantity = Field(
        default=Quantity(**_LIKE["phones"]["round_trip"]),
        description="Seconds that a trip takes beside its bytes.",
    )
    records: float = Field(
        default=100,
        ge=0,
        description="Records that a round's training counts as, epochs included: the same for "
        "every client, since lateness must not depend on data.",
    )
    training_deadline: float | None = Field(
        default=None, gt=0, description="Seconds in the field that a server waits for training."
    )
    trip_deadline: float | None = Field(
        default=None, gt=0, description="Seconds in the field that it waits on each later trip."
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, data: Any) -> Any:
        """What is not given is as it is for devices of that kind."""
        if not isinstance(data, Mapping):
            return data
        return _LIKE.get(str(data.get("like", "phones")), {}) | dict(data)

    @property
    def drops(self) -> bool:
        """Whether anyone can be late."""
        return self.training_deadline is not None or self.trip_deadline is not None

    def draw(self, client: ClientId, round: int, public: SeedTree) -> Device:
        """The client's device in that round; no other client and nobody's data has a part in it."""
        between = public.stream(DEVICE, client).normal(4).tolist()
        within = public.stream(DEVICE, client, round).normal(4).tolist()
        return Device(
            self.seconds_per_record.of(between[0], within[0]),
            self.download.of(between[1], within[1]),
            self.upload.of(between[2], within[2]),
            self.round_trip.of(between[3], within[3]),
        )

    def late_from(
        self, client: ClientId, round: int, public: SeedTree, *, load: Load
    ) -> Stage | None:
        """The first trip that the client is too slow for in this round; None: it keeps up.

        On trips that carry no vector only the round trip counts.
        """
        if not self.drops:
            return None
        device = self.draw(client, round, public)
        if _over(device.seconds(down=load.down, records=self.records), self.training_deadline):
            return Stage.TRAIN
        if _over(device.seconds(), self.trip_deadline):
            return Stage.ADVERTISE_KEYS
        if _over(device.seconds(up=load.up), self.trip_deadline):
            return Stage.MASKED_INPUT
        return None

    def chance_late(self, load: Load) -> float:
        """The chance of a client to be late in a round, from above.

        For each round trip and each download the chance over the rest has a closed form. Both are
        cut into bins and taken at the upper end of theirs, so that no rounding lowers the result.
        """
        if not self.drops:
            return 0.0
        trips, weights = _bins(self.round_trip.median, self.round_trip.deviation)
        in_time = np.ones(len(trips))
        if self.training_deadline is not None:
            fetched, shares = _bins(load.down / self.download.median, self.download.deviation)
            left = self.training_deadline - trips[:, None] - fetched[None, :]  # [trips, downloads]
            work = self.records * self.seconds_per_record.median
            in_time *= 1 - _beyond(left, work, self.seconds_per_record.deviation) @ shares
        if self.trip_deadline is not None:
            left, sent = self.trip_deadline - trips, load.up / self.upload.median
            in_time *= 1 - _beyond(left, sent, self.upload.deviation)
        return min(1.0, float(np.dot(weights, 1 - in_time)))


def _over(seconds: float, deadline: float | None) -> bool:
    return deadline is not None and seconds > deadline


def _bins(median: float, deviation: float) -> tuple[Figures, Figures]:
    """A lognormal quantity, rounded up to the ends of bins: values [n] and their chances [n]."""
    if deviation == 0 or median == 0:
        return np.array([median]), np.array([1.0])
    from scipy.special import ndtri  # slow to import, and only deadlines need it

    ends = np.concatenate([np.arange(1, BINS) / BINS, 1 - 2.0 ** -np.arange(10.0, 40.0), [1.0]])
    return median * np.exp(deviation * ndtri(ends)), np.diff(ends, prepend=0.0)


def _beyond(limit: Figures, median: float, deviation: float) -> Figures:
    """The chance of a lognormal quantity above each limit; a median of 0 is a constant 0."""
    if deviation == 0 or median == 0:
        return (median > limit).astype(np.float64)
    from scipy.special import ndtr

    with np.errstate(divide="ignore"):  # a limit of 0 leaves a chance of 1
        return np.asarray(ndtr((np.log(median) - np.log(np.maximum(limit, 0))) / deviation))


@dataclass
class FieldClock:
    """What the trips of the present round would have taken, on the devices of those who were there.

    What the server computes itself is not in it.

    Attributes:
        devices: of the clients.
        public: from which they are drawn.
        seconds: of the present round, by stage.
    """

    devices: Devices
    public: SeedTree
    seconds: dict[str, float] = field(default_factory=dict)
    _round: int = 0
    _drawn: dict[ClientId, Device] = field(default_factory=dict, repr=False)

    def begin(self, round: int) -> None:
        """Sets the clock to 0, for an attempt at that round."""
        self.seconds, self._round, self._drawn = {}, round, {}

    def trip(
        self,
        stage: Stage,
        down: Mapping[ClientId, int],
        up: Mapping[ClientId, int],
        *,
        opens: bool = False,
    ) -> None:
        """Adds a trip: the slowest answer, or the deadline where an answer is missing.

        Without a deadline a server would wait for ever; the clock goes on with those who answered.

        Args:
            stage: of the trip.
            down: the bytes sent to each client that was asked.
            up: the bytes of each answer.
            opens: whether the session's first request went out with the task. Then one trip is
                both, and may take as long as both.
        """
        if stage is Stage.DEBUG or not down:
            return
        records = self.devices.records if stage is Stage.TRAIN else 0
        waits = [
            self._device(client).seconds(down=down[client], up=sent, records=records)
            for client, sent in up.items()
        ]
        if down.keys() - up.keys():
            waits.append(self._deadline(stage, opens))
        name = stage.name.lower()
        self.seconds[name] = self.seconds.get(name, 0.0) + max(waits, default=0.0)

    def _deadline(self, stage: Stage, opens: bool) -> float:
        """How long a missing answer is waited for; 0 without a deadline."""
        training = self.devices.training_deadline or 0.0
        later = self.devices.trip_deadline or 0.0
        if stage is not Stage.TRAIN:
            return later
        return training + later if opens else training

    def _device(self, client: ClientId) -> Device:
        if client not in self._drawn:
            self._drawn[client] = self.devices.draw(client, self._round, self.public)
        return self._drawn[client]
