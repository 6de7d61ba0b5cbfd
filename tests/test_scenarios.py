"""Scenarios by YAML: a run tells what its rounds would have taken in the field, and replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.records.console import facts
from codex_ray.records.result import RunResult

FAULTS = {
    "devices": {"training_deadline": 5.0, "trip_deadline": 0.4},
    "flaky": {"availability": 0.9},
    "mute": {"clients": [3], "stage": "unmask"},
}


def told(result: RunResult) -> list[dict[str, Any]]:
    lines = Path(result.directory, "rounds.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture
def scenario(devices) -> dict[str, Any]:
    devices["federation"] |= {"faults": FAULTS}
    return devices


def test_a_run_tells_what_its_rounds_would_have_taken(scenario, tmp_path) -> None:
    result = codex_ray.run(scenario, out=tmp_path / "run")
    rounds = told(result)
    assert {"train", "advertise_keys", "masked_input", "unmask"} <= rounds[0][
        "field_seconds"
    ].keys()
    assert any("train" in one["dropped"] for one in rounds)
    total = sum(sum(one["field_seconds"].values()) for one in rounds)
    assert result.field_seconds == pytest.approx(total, abs=0.01) and total > 0
    assert dict(facts(result))["seconds in the field"].startswith(f"{total:.1f}")
    assert verify(tmp_path / "run").differences == ()
    again = codex_ray.run(scenario, out=tmp_path / "again")
    assert told(again) == rounds and again.model_sha256 == result.model_sha256
    assert RunResult.read(tmp_path / "run").field_seconds == result.field_seconds


def test_a_resumed_scenario_is_the_uninterrupted_one(scenario, tmp_path) -> None:
    whole = codex_ray.run(scenario, out=tmp_path / "whole")

    class Stop(Exception):  # noqa: N818  # the test's own Ctrl-C
        pass

    def after_two(result: Any) -> None:
        if result is not None and result.round == 1:
            raise Stop

    with pytest.raises(Stop):
        codex_ray.run(scenario, out=tmp_path / "cut", watch=after_two)
    resumed = codex_ray.run(resume=tmp_path / "cut")
    assert told(resumed) == told(whole) and resumed.field_seconds == whole.field_seconds


def test_a_clock_alone_changes_no_bit(devices, tmp_path) -> None:
    plain = codex_ray.run(devices, out=tmp_path / "plain")
    timed = codex_ray.run(devices, {"federation.faults.devices": {}}, out=tmp_path / "timed")
    assert plain.model_sha256 == timed.model_sha256 and plain.privacy == timed.privacy
    assert plain.field_seconds is None and timed.field_seconds > 0
    assert all(one["field_seconds"] == {} for one in told(plain))
    assert "seconds in the field" not in dict(facts(plain))


def test_a_cohort_of_nobody_takes_no_time(devices, tmp_path) -> None:
    few = {
        "federation.sampler.rate": 0.03, "federation.protocol.kind": "clear", "rounds": 10,
        "federation.faults.devices": {},
    }  # fmt: skip
    rounds = told(codex_ray.run(devices, few, out=tmp_path / "run"))
    assert {not one["cohort"] for one in rounds} == {True, False}
    assert all(bool(one["field_seconds"]) == bool(one["cohort"]) for one in rounds)


def test_too_short_a_deadline_for_noise_inside_is_refused_before_anything_runs(inside) -> None:
    inside["federation"] |= {"dropouts": {}, "faults": {"devices": {"training_deadline": 2.0}}}
    with pytest.raises(ConfigError, match=r"federation\.faults lose 0\.\d+ of a cohort"):
        assemble(experiment_from(inside))


def test_survivors_pay_and_the_late_do_not(silos, tmp_path) -> None:
    silos["federation"] = {
        "protocol": {"kind": "secagg"},
        "faults": {"mute": {"clients": [2]}, "devices": {"like": "hospitals"}},
    }
    result = codex_ray.run(silos, out=tmp_path / "run")
    paid = {spend["client"]: spend["releases"] for spend in result.privacy}
    assert paid == {c: 0 if c == 2 else 3 for c in range(6)}
