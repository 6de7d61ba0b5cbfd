"""Scenarios of silence: drawn, chosen or by the virtual clock, replayed to the bit on any hosts."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from scipy import stats

from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.federation.faults import Dropouts, Faults, FaultyTransport, Flaky, Mute
from codex_ray.federation.federation import Federation
from codex_ray.federation.field import Devices, FieldClock, Load
from codex_ray.federation.transport import LocalTransport
from codex_ray.randomness import Randomness
from codex_ray.secagg.messages import SurvivorAck, SurvivorCheck
from codex_ray.types import Stage

PUBLIC = Randomness.of(3).public
FIELD = {"devices": {"training_deadline": 4.0, "trip_deadline": 0.15}}
EVERYTHING = FIELD | {
    "flaky": {"availability": 0.85},
    "mute": {"share": 0.1, "clients": [4], "stage": "unmask"},
}


class TwoHosts:
    """Each client's frames go to the host of its parity: what comes back must be the same."""

    lost: frozenset[int] = frozenset()
    width = 1

    def __init__(self, hosts: list[Any]) -> None:
        self._hosts = hosts

    def exchange(self, outbox: Any) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for parity, host in enumerate(self._hosts):
            found |= host.handle({c: f for c, f in outbox.items() if c % 2 == parity})
        return found

    def work(self, tasks: Any) -> list[bytes]:
        return LocalTransport(self._hosts[0]).work(tasks)


def a_round(config: dict[str, Any], *, hosts: int = 1, attempt: int = 0) -> tuple[Any, Any, Any]:
    """The state and trace after round 0, and the field's seconds."""
    built = assemble(experiment_from(config))
    carried = [built.host() for _ in range(hosts)]
    inner = LocalTransport(carried[0]) if hosts == 1 else TwoHosts(carried)
    one, state = built.round(inner), built.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=attempt)
    return after, trace, one.clock.seconds if one.clock else {}


@pytest.fixture
def scenario(devices) -> dict[str, Any]:
    devices["federation"] |= {"protocol": {"kind": "ideal"}, "faults": EVERYTHING}
    return devices


def test_the_draws_of_dropouts_are_those_of_earlier_versions() -> None:
    """A digest of what was drawn before there was any other fault: old runs can be replayed."""
    old = Dropouts(before_keys=0.1, after_keys=0.1, after_shares=0.1, after_masked_input=0.1)
    drawn = [old.silent_from(c, r, PUBLIC) for c in range(60) for r in range(5)]
    told = bytes(255 if stage is None else int(stage) for stage in drawn)
    assert hashlib.sha256(told).hexdigest()[:16] == "c296664044d3ca70"


def test_old_experiments_mean_what_they_meant(devices) -> None:
    federation = experiment_from(devices).federation
    assert federation.faults == Faults() and not federation.faults.any
    assert federation.faults.chance(40, Load(10**9, 10**9)) == 0
    assert all(Faults().silent_from(c, 0, PUBLIC, load=Load()) is None for c in range(50))


def test_the_earliest_silence_wins() -> None:
    class At(Dropouts):
        stage: Stage

        def silent_from(self, client, round, public):
            return self.stage

    def falls(by_chance: Stage, muted: str) -> Stage:
        transport = FaultyTransport(
            None, At(stage=by_chance), PUBLIC,
            faults=Faults.model_validate({"mute": {"clients": [0], "stage": muted}}),
        )  # fmt: skip
        return transport._falls(0, 0)

    assert falls(Stage.UNMASK, "masked_input") is Stage.MASKED_INPUT
    assert falls(Stage.SHARE_KEYS, "masked_input") is Stage.SHARE_KEYS
    late = Faults.model_validate({"mute": {"clients": [0]}, "devices": {"training_deadline": 1e-9}})
    assert late.silent_from(0, 0, PUBLIC, load=Load()) is Stage.TRAIN
    assert late.silent_from(1, 0, PUBLIC, load=Load()) is Stage.TRAIN


@pytest.mark.parametrize("evenness", [0.5, 4.0, 1e4])
def test_flaky_clients_are_away_as_often_as_was_asked(evenness) -> None:
    """Over clients in one round each, which are independent."""
    flaky = Flaky(availability=0.8, evenness=evenness)
    away = sum(flaky.away(c, c % 7, PUBLIC) for c in range(2000))
    assert stats.binomtest(away, 2000, Faults(flaky=flaky).chance(2000)).pvalue > 1e-4


def test_an_availability_is_a_client_s_own() -> None:
    """Near 0, most clients are always there or never; with a large evenness all are alike."""

    def rounds_away(evenness: float) -> list[int]:
        flaky = Flaky(availability=0.5, evenness=evenness)
        return [sum(flaky.away(c, r, PUBLIC) for r in range(20)) for c in range(100)]

    extreme, alike = rounds_away(0.02), rounds_away(1e6)
    assert sum(n in (0, 20) for n in extreme) > 80
    assert sum(n in (0, 20) for n in alike) == 0
    # Alike, they are 2000 coins: their sums spread as coins do.
    assert stats.binomtest(sum(alike), 2000, 0.5).pvalue > 1e-4


def test_mute_clients_are_the_same_in_every_round_and_as_many_as_asked() -> None:
    faults = Faults(mute=Mute(share=0.2, clients=(1, 5)))
    found = [faults.silent_from(c, 0, PUBLIC, load=Load()) for c in range(2000)]
    assert found == [faults.silent_from(c, 9, PUBLIC, load=Load()) for c in range(2000)]
    assert found[1] is found[5] is Stage.MASKED_INPUT
    mute = sum(stage is not None for stage in found)
    assert stats.binomtest(mute, 2000, faults.chance(2000)).pvalue > 1e-4
    assert Faults(mute=Mute(clients=(1, 5))).chance(8) == 0.25


def test_a_client_is_mute_at_any_trip_of_any_protocol_or_at_the_next_that_it_has(silos) -> None:
    """Client 3 is heard in all trips before it, and is in the sum if it had its input sent."""
    malicious = {"kind": "secagg", "adversary": "malicious"}  # has them all
    every = {stage.name.lower(): stage for stage in Stage if stage is not Stage.DEBUG}
    enrolled = {"kind": "secagg", "adversary": "semi_honest", "keys": "enrolled"}
    in_enrolled = every | {
        "reveal_nonces": Stage.SHARE_KEYS,
        "confirm_survivors": Stage.UNMASK,
    }
    unknown = enrolled | {"keys": "session"}
    in_unknown = in_enrolled | {"enrol": Stage.ADVERTISE_KEYS}
    ideal = {"kind": "ideal"}
    later = ("enrol", "advertise_keys", "reveal_nonces", "share_keys")
    in_ideal = in_unknown | dict.fromkeys(later, Stage.MASKED_INPUT)
    silos["federation"]["dropouts"] = {}
    for protocol, falls in (
        (malicious, every),
        (enrolled, in_enrolled),
        (unknown, in_unknown),
        (ideal, in_ideal),
    ):
        for name, expected in falls.items():
            muted = {"clients": [3], "stage": name}
            silos["federation"] |= {"protocol": protocol, "faults": {"mute": muted}}
            _, trace, _ = a_round(silos)
            assert trace.silent == {3: expected} and trace.aborted is None, (protocol, name)
            assert (3 in trace.members) == (expected > Stage.MASKED_INPUT)


def test_the_chance_of_all_faults_together_is_that_of_the_draws() -> None:
    faults, load = Faults.model_validate(EVERYTHING), Load(down=31_400, up=31_400)
    found = [faults.silent_from(c, c, PUBLIC, load=load) is not None for c in range(1500)]
    chance = faults.chance(1500, load)
    assert 0.1 < chance < 0.7
    assert stats.binomtest(sum(found), 1500, chance).pvalue > 1e-4


def test_a_round_is_replayed_to_the_bit_on_any_hosts_in_any_attempt(scenario) -> None:
    after, trace, seconds = a_round(scenario)
    assert len(set(trace.silent.values())) >= 3 and trace.aborted is None
    assert seconds.keys() == {"train", "unmask"} and all(seconds.values())
    for others in ({"hosts": 2}, {"attempt": 1}):
        again, other, taken = a_round(scenario, **others)
        assert again.params.equal(after.params)
        assert (other.silent, other.members) == (trace.silent, trace.members)
        assert taken == seconds


@pytest.mark.parametrize("kind", ["secagg_plus", "one_shot", "clear"])
def test_every_protocol_loses_the_same_clients(kind, scenario) -> None:
    scenario["federation"]["faults"] = EVERYTHING | {"mute": {"share": 0.05}}
    after, trace, _ = a_round(scenario)
    scenario["federation"]["protocol"] = {"kind": kind}
    again, other, seconds = a_round(scenario)
    assert other.members == trace.members and set(trace.cohort) - set(trace.members)
    assert again.params.equal(after.params)
    if kind == "secagg_plus":
        assert seconds.keys() >= {"train", "advertise_keys", "share_keys", "masked_input", "unmask"}


def test_folded_summands_count_as_if_each_client_had_sent_its_own(scenario) -> None:
    """With a summand of its own length for each, whichever host it was folded on."""
    scenario["federation"]["faults"] = {"devices": {}}
    _, trace, seconds = a_round(scenario)
    built = assemble(experiment_from(scenario))
    task, summand = 4 * len(built.initial), built.codec.length * 4
    devices = built.experiment.federation.faults.devices
    drawn = [devices.draw(c, 0, built.randomness.public) for c in trace.cohort]
    least = max(d.seconds(down=task, up=summand // 2, records=devices.records) for d in drawn)
    most = max(d.seconds(down=task + 200, up=summand + 200, records=devices.records) for d in drawn)
    assert least < seconds["train"] < most
    without = max(d.seconds(down=task + 200, up=100, records=devices.records) for d in drawn)
    assert without < seconds["train"]


@pytest.mark.parametrize("kind", ["ideal", "secagg_plus"])
def test_records_have_no_part_in_who_is_late_nor_in_the_clock(kind, scenario) -> None:
    """Else a client's silence would show how many records it has, and no ledger charges that."""
    scenario["federation"] |= {"protocol": {"kind": kind}, "faults": FIELD}
    scenario["data"]["records_per_client"] = [5, 10]
    _, few, seconds = a_round(scenario)
    scenario["data"]["records_per_client"] = [60, 90]
    _, many, taken = a_round(scenario)
    assert few.silent and few.silent == many.silent and seconds == taken


@pytest.mark.parametrize("kind", ["ideal", "secagg_plus"])
def test_who_is_late_does_not_depend_on_who_else_is_there(kind, scenario) -> None:
    """Else one client more could put another out of the sum, which the noise is not made for."""
    scenario["federation"] |= {"protocol": {"kind": kind}, "faults": FIELD}
    late = []
    for sampler in ({"kind": "poisson", "rate": 0.6}, {"kind": "all"}):
        scenario["federation"]["sampler"] = sampler
        _, trace, _ = a_round(scenario)
        late.append((set(trace.cohort), trace.silent))
    (some, few), (_, many) = late
    assert few and few == {c: stage for c, stage in many.items() if c in some}


@pytest.mark.parametrize("kind", ["ideal", "secagg_plus"])
def test_who_trains_and_sends_no_summand_is_waited_for(kind, scenario) -> None:
    """Under ideal in the trip that is both: having trained is no answer to it."""
    scenario["federation"] |= {"sampler": {"kind": "all"}, "protocol": {"kind": kind}}
    scenario["federation"]["dropouts"] = {}
    devices = {"training_deadline": 500.0, "trip_deadline": 70.0}
    scenario["federation"]["faults"] = {"mute": {"clients": [3]}, "devices": devices}
    _, trace, seconds = a_round(scenario)
    assert trace.silent == {3: Stage.MASKED_INPUT}
    if kind == "ideal":
        assert seconds["train"] == 570.0 and seconds["unmask"] < 70
    else:
        assert seconds["train"] < 500 and seconds["masked_input"] == 70.0


def test_a_lost_host_is_waited_for_by_the_simulation_only() -> None:
    """Its clients are no dropouts, and no server in the field would have waited for them."""

    class Losing:
        lost: frozenset[int] = frozenset()

        def exchange(self, outbox: Any) -> dict[int, bytes]:
            self.lost = frozenset({1})
            return {c: SurvivorAck().to_frame() for c in outbox if c != 1}

    devices = Devices(trip_deadline=1e3)
    clock = FieldClock(devices, PUBLIC)
    clock.begin(0)
    transport = FaultyTransport(Losing(), Dropouts(), PUBLIC, clock=clock)
    transport._silent = dict.fromkeys(range(3), Stage.DEBUG)
    transport.exchange(dict.fromkeys(range(3), SurvivorCheck((0, 1, 2)).to_frame()))
    assert 0 < clock.seconds["unmask"] < 10


def test_nobody_there_is_a_round_without_a_sum(scenario) -> None:
    for kind in ("ideal", "secagg_plus", "one_shot", "clear"):
        scenario["federation"]["protocol"] = {"kind": kind}
        scenario["federation"]["faults"] = {"devices": {"training_deadline": 0.001}}
        _, trace, seconds = a_round(scenario)
        assert trace.aborted and trace.members == () and seconds == {"train": 0.001}


def federation(inside: dict[str, Any], **others: Any) -> Federation:
    return experiment_from(
        inside | {"federation": inside["federation"] | {"dropouts": {}} | others}
    ).federation


def test_noise_inside_the_sum_needs_enough_who_are_there(inside) -> None:
    flaky = federation(inside, faults={"flaky": {"availability": 0.5}})
    with pytest.raises(ConfigError, match=r"federation\.faults lose 0\.5 of a cohort.*raise"):
        flaky.check(40, rounds=3, delta=1e-5)
    slow = federation(inside, faults={"devices": {"training_deadline": 2.0}})
    slow.check(40, rounds=3, delta=1e-5)  # how much there is to move is not known yet
    with pytest.raises(ConfigError, match=r"lose 0\.\d+ of a cohort"):
        slow.check_losses(40, Load(down=10**6, up=10**6))
    federation(inside, faults={"devices": {}}).check_losses(40, Load(down=10**9, up=10**9))
    # Beside chance dropouts: neither is too many alone.
    both = federation(
        inside, dropouts={"after_shares": 0.06}, faults={"flaky": {"availability": 0.94}}
    )
    with pytest.raises(ConfigError, match=r"lose 0\.116 of a cohort"):
        both.check_losses(40)


def test_uneven_silence_is_refused_where_outsiders_are_credited_equal_chances(inside) -> None:
    noise = inside["federation"]["mechanism"] | {"assumed_dropout": 0.9, "assumed_corrupt": 0.05}
    drawn = {"sampler": {"kind": "poisson", "rate": 0.5}, "mechanism": noise,
             "protocol": {"kind": "ideal"}}  # fmt: skip
    federation(inside, **drawn).check(40, rounds=3, delta=1e-5)
    federation(inside, **drawn, faults={"devices": {}}).check(40, rounds=3, delta=1e-5)
    for fault in (
        {"flaky": {"availability": 0.9}},
        {"mute": {"share": 0.1}},
        {"devices": {"training_deadline": 60.0}},
    ):
        with pytest.raises(ConfigError, match=r"set federation\.sampler\.kind to all"):
            federation(inside, **drawn, faults=fault).check(40, rounds=3, delta=1e-5)


def test_clients_that_there_are_not_cannot_be_mute(devices) -> None:
    devices["federation"]["faults"] = {"mute": {"clients": [39, 40]}}
    with pytest.raises(ConfigError, match=r"mute\.clients names 40, but there are only 40"):
        experiment_from(devices).federation.check(40, rounds=1, delta=1e-5)
