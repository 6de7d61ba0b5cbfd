"""Devices in the field: who is late, how likely that is, and what the virtual clock adds up."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import stats

from codex_ray.federation.field import Device, Devices, FieldClock, Load, Quantity
from codex_ray.randomness import Randomness
from codex_ray.types import Stage

PUBLIC = Randomness.of(5).public
LOAD = Load(down=400_000, up=200_000)
ORDER = [Stage.TRAIN, Stage.ADVERTISE_KEYS, Stage.MASKED_INPUT]


def late(devices: Devices, load: Load = LOAD, *, clients: int = 300, rounds: int = 1) -> list:
    return [
        devices.late_from(c, r, PUBLIC, load=load) for c in range(clients) for r in range(rounds)
    ]


def alike(**others: object) -> Devices:
    """Devices without any difference between them, to reckon by hand."""
    same = {
        "seconds_per_record": {"median": 0.5},
        "download": {"median": 100.0},
        "upload": {"median": 50.0},
        "round_trip": {"median": 0.25},
        "records": 4,
    }
    return Devices.model_validate(same | others)


def test_a_trip_by_hand() -> None:
    device = Device(seconds_per_record=0.5, download=100, upload=50, round_trip=0.25)
    assert device.seconds(down=200, up=150, records=4) == 0.25 + 2 + 3 + 2
    assert device.seconds() == 0.25


def test_a_round_by_hand() -> None:
    clock = FieldClock(alike(training_deadline=9.0, trip_deadline=7.0), PUBLIC)
    clock.begin(3)
    clock.trip(Stage.TRAIN, {0: 200, 1: 200}, {0: 50, 1: 100})
    assert clock.seconds == {"train": 0.25 + 2 + 2 + 2}
    clock.trip(Stage.MASKED_INPUT, {0: 100, 1: 100}, {0: 150})  # 1 is waited for
    clock.trip(Stage.UNMASK, {0: 100}, {0: 50})
    clock.trip(Stage.UNMASK, {0: 100}, {0: 50})  # asked again: both count
    clock.trip(Stage.DEBUG, {0: 100}, {0: 50})  # no real server asks that
    assert clock.seconds == {"train": 6.25, "masked_input": 7.0, "unmask": 2 * 2.25}
    clock.begin(4)
    assert clock.seconds == {}
    clock.trip(Stage.TRAIN, {}, {})
    assert clock.seconds == {}


@pytest.mark.parametrize(
    ("opens", "deadlines", "seconds"),
    [
        (False, {"training_deadline": 9.0, "trip_deadline": 7.0}, 9.0),
        (True, {"training_deadline": 9.0, "trip_deadline": 7.0}, 16.0),
        (True, {"training_deadline": 9.0}, 9.0),
        (False, {}, 0.25 + 2 + 1 + 2),
    ],
)
def test_a_missing_answer_is_waited_for_as_long_as_there_is_a_deadline(
    opens, deadlines, seconds
) -> None:
    clock = FieldClock(alike(**deadlines), PUBLIC)
    clock.begin(0)
    clock.trip(Stage.TRAIN, {0: 200, 1: 200}, {0: 50}, opens=opens)
    assert clock.seconds == {"train": seconds}


def test_lateness_by_hand() -> None:
    """Training takes 0.25 + 2 + 2 seconds, a bare trip 0.25, one with a summand 0.25 + 3."""
    load = Load(down=200, up=150)

    def falls(**deadlines: float) -> Stage | None:
        return alike(**deadlines).late_from(0, 0, PUBLIC, load=load)

    assert falls() is None
    assert falls(training_deadline=4.25, trip_deadline=3.25) is None
    assert falls(training_deadline=4.24, trip_deadline=0.1) is Stage.TRAIN
    assert falls(trip_deadline=3.24) is Stage.MASKED_INPUT
    assert falls(trip_deadline=0.24) is Stage.ADVERTISE_KEYS
    for devices, chance in [
        (alike(), 0),
        (alike(training_deadline=4.25, trip_deadline=3.25), 0),
        (alike(training_deadline=4.24), 1),
        (alike(trip_deadline=3.24), 1),
    ]:
        assert devices.chance_late(load) == chance


def test_a_client_keeps_its_device_and_its_rounds_wobble() -> None:
    steady = {"median": 1.0, "spread": 1.0}
    devices = Devices(round_trip=Quantity(**steady), upload=Quantity(**steady, wobble=0.5))
    first, second = (devices.draw(7, r, PUBLIC) for r in (0, 1))
    assert first.round_trip == second.round_trip and first.upload != second.upload
    assert devices.draw(8, 0, PUBLIC).round_trip != first.round_trip
    assert devices.draw(7, 0, PUBLIC) == first


def test_devices_are_drawn_as_described() -> None:
    devices = Devices(like="phones")
    drawn = [devices.draw(c, 0, PUBLIC) for c in range(1500)]
    for name in ("seconds_per_record", "download", "upload", "round_trip"):
        asked = getattr(devices, name)
        logs = np.log([getattr(one, name) for one in drawn]) - np.log(asked.median)
        spread = np.hypot(asked.spread, asked.wobble)
        assert stats.kstest(logs / spread, "norm").pvalue > 1e-4
    # Four normals of their own: no quantity tells of another.
    columns = np.log([[d.seconds_per_record, d.download, d.upload, d.round_trip] for d in drawn])
    others = np.corrcoef(columns.T)[np.triu_indices(4, 1)]
    assert np.abs(others).max() < 0.12


def test_lateness_is_replayed_and_another_seed_s_is_another() -> None:
    devices = Devices(training_deadline=3.0, trip_deadline=0.5)
    assert late(devices) == late(devices)
    other = Randomness.of(6).public
    assert late(devices) != [devices.late_from(c, 0, other, load=LOAD) for c in range(300)]


@pytest.mark.parametrize("which", ["training_deadline", "trip_deadline"])
def test_a_longer_deadline_loses_nobody_more(which) -> None:
    fixed = {"training_deadline": 4.0, "trip_deadline": 0.6}
    last: list[Stage | None] | None = None
    lost, chances = [], []
    for seconds in (0.05, 0.1, 0.3, 0.6, 1.2, 2.5, 5.0, 20.0):
        devices = Devices.model_validate(fixed | {which: seconds})
        found = late(devices)
        if last is not None:
            for before, after in zip(last, found, strict=True):
                assert after is None or (before is not None and before <= after)
        last = found
        lost.append(sum(stage is not None for stage in found))
        chances.append(devices.chance_late(LOAD))
    assert lost[0] > lost[-1] and chances == sorted(chances, reverse=True)


@pytest.mark.parametrize(
    "devices",
    [
        Devices(training_deadline=3.0, trip_deadline=0.5),
        Devices(training_deadline=6.0),
        Devices(trip_deadline=0.4),
        Devices(like="hospitals", training_deadline=0.3, trip_deadline=0.05),
        alike(upload={"median": 2e5, "spread": 1.0}, trip_deadline=2.0),
    ],
    ids=["both", "training", "trips", "hospitals", "one quantity"],
)
def test_the_chance_is_that_of_the_draws(devices) -> None:
    """Over clients in a round of their own each, which are independent."""
    count = 2000
    drawn = [devices.late_from(c, c, PUBLIC, load=LOAD) is not None for c in range(count)]
    chance = devices.chance_late(LOAD)
    assert 0.01 < chance < 0.99
    assert stats.binomtest(sum(drawn), count, chance).pvalue > 1e-4


def test_the_chance_is_from_above_and_close() -> None:
    """One quantity alone has a closed form."""
    devices = alike(
        round_trip={"median": 0.25, "spread": 0.8}, seconds_per_record={"median": 1e-9},
        download={"median": 1e12}, trip_deadline=1.0, training_deadline=1e3,
    )  # fmt: skip
    exact = stats.norm.sf(np.log(1.0 / 0.25) / 0.8)
    assert exact <= devices.chance_late(Load()) <= exact + 1 / 256


def test_lateness_knows_nothing_of_data_or_of_who_else_is_there() -> None:
    """What it may look at is in its arguments: a client, a round, public streams, one load."""
    names = set(inspect.signature(Devices.late_from).parameters)
    assert names == {"self", "client", "round", "public", "load"}
    assert set(Load.__dataclass_fields__) == {"down", "up"}


def test_what_is_not_given_is_as_it_is_for_its_kind() -> None:
    own = Devices.model_validate({"like": "hospitals", "upload": {"median": 1.0}})
    assert own.upload == Quantity(median=1.0)
    assert own.download == Devices(like="hospitals").download != Devices().download
    assert Devices.model_validate(own.model_dump()) == own
    assert Devices() == Devices(like="phones")
