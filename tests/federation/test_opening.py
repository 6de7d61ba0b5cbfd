"""A session that begins the same for everyone begins with the task: a trip less, no other bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.federation import client as clients
from codex_ray.federation.messages import TrainTask
from codex_ray.federation.transport import Answered, LocalTransport
from codex_ray.records.result import RunResult
from codex_ray.secagg.messages import (
    FoldedInput,
    PlainSummand,
    SummandRequest,
    SurvivorAck,
    SurvivorCheck,
)
from codex_ray.secagg.protocols import Clear, Ideal
from codex_ray.types import Stage
from codex_ray.wire import kind_of, read_frame

DROPOUTS = {"before_keys": 0.1, "after_keys": 0.1, "after_shares": 0.1, "after_masked_input": 0.1}


@pytest.fixture
def trips(monkeypatch) -> list[Stage]:
    """The stage of each trip of the runs that follow."""
    made: list[Stage] = []
    exchange = LocalTransport.exchange

    def noted(self: LocalTransport, outbox: Any) -> Any:
        made.extend({kind_of(frame).stage for frame in outbox.values()})
        return exchange(self, outbox)

    monkeypatch.setattr(LocalTransport, "exchange", noted)
    return made


def told(result: RunResult) -> list[dict[str, Any]]:
    """What each round tells, but for its times and for the bytes of a trip that was not made."""
    lines = Path(result.directory, "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    return [{k: v for k, v in one.items() if k not in ("seconds", "bytes_up")} for one in rounds]


@pytest.mark.parametrize("kind", ["ideal", "clear"])
def test_training_and_summands_take_one_trip(kind, devices, trips, tmp_path) -> None:
    del devices["federation"]["dropouts"]
    codex_ray.run(devices, {"federation.protocol.kind": kind}, out=tmp_path / "run")
    assert trips == devices["rounds"] * [Stage.TRAIN]


def test_a_trip_whose_answers_are_known_changes_nothing_but_the_trip(
    devices, trips, monkeypatch, tmp_path
) -> None:
    """Who falls silent in it, and who would have been waited for, is drawn all the same."""
    devices["federation"] |= {"dropouts": DROPOUTS, "protocol": {"kind": "ideal"}}
    known = codex_ray.run(devices, out=tmp_path / "known")
    assert Stage.UNMASK not in trips
    monkeypatch.setattr(Ideal, "standing", None)
    asked = codex_ray.run(devices, out=tmp_path / "asked")
    assert Stage.UNMASK in trips
    assert known.model_sha256 == asked.model_sha256 and known.bytes_up == asked.bytes_up
    assert told(known) == told(asked)
    assert any("unmask" in line["dropped"] for line in told(known))


def test_nobody_is_asked_or_lost_in_a_trip_that_is_not_made() -> None:
    asked: list[Any] = []

    class Losing:
        lost = frozenset({2})

        def exchange(self, outbox: Any) -> dict[int, bytes]:
            asked.append(outbox)
            return {}

    transport = Answered(Losing(), SurvivorAck())  # type: ignore[arg-type]  # no more is used
    check = SurvivorCheck((0, 1)).to_frame()
    found = transport.exchange(dict.fromkeys((0, 1), check))
    assert {one: type(read_frame(frame)) for one, frame in found.items()} == {
        0: SurvivorAck, 1: SurvivorAck
    }  # fmt: skip
    assert asked == [] and transport.lost == frozenset()
    request = {0: SummandRequest().to_frame()}
    assert transport.exchange(request) == {} and asked == [request] and transport.lost == {2}


@pytest.mark.parametrize("protocol", [Ideal, Clear])
def test_it_changes_nothing_but_the_trip(protocol, devices, monkeypatch, tmp_path) -> None:
    devices["federation"] |= {"dropouts": DROPOUTS, "protocol": {"kind": protocol().kind}}
    early = codex_ray.run(devices, out=tmp_path / "early")
    monkeypatch.setattr(protocol, "opening", None)
    late = codex_ray.run(devices, out=tmp_path / "late")
    assert early.model_sha256 == late.model_sha256
    assert told(early) == told(late)
    silent = {stage for line in told(early) for stage in line["dropped"]}
    assert len(silent) == (2 if protocol is Ideal else 1)  # Stages that there are to be silent at.


@pytest.mark.parametrize("kind", ["ideal", "secagg_plus"])
def test_a_host_that_works_in_portions_changes_no_bit(kind, devices, monkeypatch, tmp_path) -> None:
    devices["federation"] |= {"protocol": {"kind": kind}}
    whole = codex_ray.run(devices, out=tmp_path / "whole")
    monkeypatch.setattr(clients, "PORTION", 1)
    apart = codex_ray.run(devices, out=tmp_path / "apart")
    assert whole.model_sha256 == apart.model_sha256 and told(whole) == told(apart)


def test_a_host_keeps_no_summand_that_went_with_the_training(devices) -> None:
    devices["federation"] = {"protocol": {"kind": "ideal"}}
    assembled = assemble(experiment_from(devices))
    host = assembled.host()
    task = TrainTask(b"r" * 16, 0, 0, assembled.initial.numpy())
    opened = TrainTask(
        b"r" * 16, 0, 0, assembled.initial.numpy(), opening=SummandRequest().to_frame()
    )
    frames = dict.fromkeys(range(5), opened.to_frame()) | {5: task.to_frame()}
    replies = {one: read_frame(frame) for one, frame in host.handle(frames).items()}
    assert [type(replies[one]) for one in range(5)] == [PlainSummand] + 4 * [FoldedInput]
    assert replies[0].words.shape == (assembled.codec.length,)
    kept = [one for one, seat in host._sessions._seats.items() if seat.summand is not None]
    assert kept == [5]
    # Whoever has answered answers no more, whether asked with a task or without.
    again = dict.fromkeys(range(5), opened.to_frame())
    assert host.handle(again) == {}
    assert host.handle(dict.fromkeys(range(5), SummandRequest().to_frame())) == {}


def test_a_cohort_whose_sum_is_noise_alone_is_asked_for_no_summand(devices, monkeypatch) -> None:
    devices["federation"]["protocol"] = {"kind": "ideal"}
    assembled = assemble(experiment_from(devices))
    replies: list[type] = []
    handle = clients.Host.handle

    def noted(self: Any, frames: Any) -> Any:
        found = handle(self, frames)
        replies.extend(kind_of(frame) for frame in found.values())
        return found

    monkeypatch.setattr(clients.Host, "handle", noted)
    round_ = assembled.round(LocalTransport(assembled.host()))
    state, trace = round_.run(assembled.first_state(), cohort=(3, 4), attempt=0)
    assert trace.members == () and PlainSummand not in replies and len(replies) == 2
    assert not np.array_equal(state.params.numpy(), assembled.initial.numpy())  # noise came out
