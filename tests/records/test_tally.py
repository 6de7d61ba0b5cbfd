"""A journal is read as it grows: each round once, cut lines later, a replaced file again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rounds_told import told

from codex_ray.errors import RunDirectoryError
from codex_ray.records.observers import RoundLines
from codex_ray.records.tally import RECENT, Following, Tally


def test_each_round_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    following = Following(file)
    assert not following.read() and following.tally.rounds == 0
    lines = RoundLines(file, first_round=0)
    lines.round(told(0))
    assert following.read() and not following.read()
    lines.round(told(1))
    lines.round(told(2, attempts=2))
    assert following.read()
    lines.close()
    tally = following.tally
    assert (tally.rounds, tally.retries, tally.clients, tally.bytes_up) == (3, 1, 30, 3000)
    assert tally.dropped == {"masked_input": 3, "unmask": 3}
    assert tally.epsilon == {"client": 2.5} and not tally.hidden


def test_a_line_that_is_being_written_comes_later(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    line = json.dumps(told(0).to_json()) + "\n"
    file.write_text(line[:50])
    following = Following(file)
    assert not following.read()
    file.write_text(line)
    assert following.read() and following.tally.rounds == 1


def test_a_resumed_run_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    following = Following(file)
    lines = RoundLines(file, first_round=0)
    for number in range(3):
        lines.round(told(number))
    lines.close()
    following.read()
    lines = RoundLines(file, first_round=2)
    lines.round(told(2))
    lines.close()
    assert following.read()
    assert following.tally.rounds == 3 and following.tally.clients == 30  # not 40


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    file.write_text(json.dumps(told(0).to_json()) + '\n{"round": 1}\n')
    with pytest.raises(RunDirectoryError, match=r"after round 1 is no round's .*: resume"):
        Following(file).read()


def test_seconds_in_the_field_are_told_where_there_are_devices() -> None:
    tally = Tally()
    line = told(0, field_seconds={}).to_json()
    tally.add(line)
    tally.add({name: it for name, it in line.items() if name != "field_seconds"})  # of before
    assert tally.field_seconds is None
    tally.add(told(1).to_json())
    tally.add(told(2).to_json())
    assert tally.field_seconds == 64.0


def test_hidden_cohorts_are_seen_to_be() -> None:
    tally = Tally()
    tally.add(told(0, charged=[{"survivors": 8, "clients": 8, "members": None}]).to_json())
    assert tally.hidden


def test_the_rate_is_that_of_the_last_rounds() -> None:
    tally = Tally()
    assert tally.rate is None
    tally.add(told(0, seconds={"train": 100.0}).to_json())
    assert tally.rate == (0.01, 0.1)
    tally.add(told(1, seconds={"train": 2.0}).to_json())
    assert tally.rate == (0.5, 5.0)  # without what is made once
    for number in range(RECENT):
        tally.add(told(2 + number, seconds={"train": 0.5, "sum": 0.5}, cohort=4).to_json())
    assert tally.rate == (1.0, 4.0)
