"""A crash leaves the old file or the new one; a checkpoint is read or refused, never guessed."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from threading import Timer

import dp_accounting as dp
import pytest
import torch

import codex_ray
from codex_ray.errors import RunDirectoryError
from codex_ray.federation.state import RoundResult, ServerState, Totals
from codex_ray.privacy.ledger import Ledger
from codex_ray.records import run_directory
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.observers import RoundLines
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory, locked, to_json_bytes, write_atomically


def state(round_: int = 3) -> ServerState:
    ledger = Ledger("record", 1e-5)
    ledger.charge(dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(2.0)), [0, 4])
    return ServerState(
        run=bytes(range(16)),
        round=round_,
        params=torch.randn(7, generator=torch.Generator().manual_seed(round_)),
        optimiser=torch.arange(7, dtype=torch.float64) / 3,
        ledgers=[ledger],
        totals=Totals(
            dropped=2, masks_recovered=9, seconds=1.5, bytes_total=13, bytes_up={4: 10, 0: 3}
        ),
        last=result(round_ - 1),
    )


def files(folder: Path) -> list[int]:
    """The rounds that there are checkpoints before."""
    found = folder.glob("round-*.safetensors")
    return sorted(int(file.stem.removeprefix("round-")) for file in found)


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state())
    back = checkpoints.load()
    assert torch.equal(back.params, state().params)
    assert torch.equal(back.optimiser, state().optimiser)
    assert (back.run, back.round, back.ledgers) == (state().run, 3, state().ledgers)
    assert (back.totals, back.last) == (state().totals, state().last)


def test_the_newest_of_the_last_two_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (8, 9, 10, 11):
        checkpoints.save(state(number))
    assert checkpoints.load().round == 11
    assert files(tmp_path) == [10, 11]


def test_a_crash_while_writing_keeps_the_old_one(tmp_path: Path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory.os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left on device: make room there"):
        checkpoints.save(state(2))
    assert checkpoints.load().round == 1
    assert files(tmp_path) == [1] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("harm", ["cut", "foreign", "empty", "other version"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, harm: str) -> None:
    from safetensors.torch import save

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    (file,) = tmp_path.glob("round-*")
    content = {
        "cut": file.read_bytes()[:-8],
        "foreign": save({"weights": torch.zeros(3)}),
        "empty": b"",
        "other version": save(
            {"params": torch.zeros(1), "optimiser": torch.zeros(1)},
            metadata={"state": json.dumps({"format": "codex_ray checkpoint 99"})},
        ),
    }[harm]
    file.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=file.name):
        checkpoints.load()


@pytest.mark.parametrize("harmed", ["params", "optimiser", "words"])
def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path, harmed: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    (file,) = tmp_path.glob("round-*")
    content = bytearray(file.read_bytes())
    start = {
        "params": content.index(state(1).params.numpy().tobytes()),
        "optimiser": content.index(state(1).optimiser.numpy().tobytes()[-8:]),
        "words": content.index(b": 9,") + 2,  # a digit: it still is JSON
    }[harmed]
    content[start] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="checksum is another"):
        checkpoints.load()


@pytest.fixture
def waits(monkeypatch) -> list[int]:
    """One entry for each time that the disk was waited for."""
    seen: list[int] = []
    monkeypatch.setattr(run_directory.os, "fsync", seen.append)
    return seen


def test_a_run_that_can_be_replayed_waits_for_the_disk_once_a_second(tmp_path: Path, waits) -> None:
    now = [0.0]
    checkpoints = Checkpoints(tmp_path, replayable=True, clock=lambda: now[0])
    for number, now[0] in enumerate([0.0, 0.2, 0.9, 1.1, 1.2, 5.0]):
        checkpoints.save(state(number))
        assert checkpoints.load().round == number
    assert len(waits) == 2 * 3  # at 0, 1.1 and 5 s, for the file and for its name


def test_the_last_one_that_the_disk_has_is_kept(tmp_path: Path, waits) -> None:
    checkpoints = Checkpoints(tmp_path, replayable=True, clock=lambda: 7.0)
    for number in range(6):
        checkpoints.save(state(number))
    assert files(tmp_path) == [0, 4, 5] and len(waits) == 2  # for the file, and for its name


def test_a_run_that_cannot_be_replayed_waits_each_time(tmp_path: Path, waits) -> None:
    checkpoints = Checkpoints(tmp_path, clock=lambda: 7.0)
    for number in range(6):
        checkpoints.save(state(number))
    assert len(waits) == 2 * 6 and files(tmp_path) == [4, 5]


@pytest.mark.parametrize("seed, each", [(3, False), (None, True)])
def test_only_a_seeded_run_is_taken_to_be_replayable(
    seed: int | None, each: bool, silos, waits, tmp_path: Path
) -> None:
    result = codex_ray.run(silos | {"seed": seed, "rounds": 1}, out=tmp_path / "short")
    short = len(waits)
    waits.clear()
    codex_ray.run(silos | {"seed": seed, "rounds": 5}, out=tmp_path / "long")
    # Two for a round: before anything is asked of anyone, and with what came of it.
    assert (len(waits) - short >= 8) is each and result.rounds == 1


def test_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no checkpoint"):
        Checkpoints(tmp_path).load()


def result(round_: int) -> RoundResult:
    return RoundResult(
        round=round_, attempts=1, cohort=3, survivors=3, dropped={}, aborted=None,
        masks_recovered=0, bytes_up={"total": 0, "largest": 0}, seconds={}, epsilon={},
        metrics={}, debug={},
    )  # fmt: skip


def test_a_resumed_journal_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    lines = RoundLines(file, first_round=0)
    for number in range(4):
        lines.round(result(number))
    lines.close()
    with file.open("ab") as half:
        half.write(b'{"round": 4, "coh')  # the crash came in the middle of a line
    lines = RoundLines(file, first_round=2)
    lines.round(result(2))
    lines.close()
    assert [json.loads(line)["round"] for line in file.read_text().splitlines()] == [0, 1, 2]


def test_json_has_no_nan_and_no_infinity() -> None:
    text = to_json_bytes({"a": float("inf"), "b": [float("nan")], "c": {1: -float("inf")}})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": "inf",
        "b": ["nan"],
        "c": {"1": "-inf"},
    }


def test_directories_are_never_taken_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunDirectory.create(run, config="name: one")
    with pytest.raises(RunDirectoryError, match="holds another run"):
        RunDirectory.create(run, config="name: two")
    assert (run / "config.yaml").read_text() == "name: one"
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory.create(tmp_path / "file", config="")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path)
    with pytest.raises(RunDirectoryError, match="has not ended"):
        RunResult.read(run)


def test_the_next_directory_is_free(tmp_path: Path) -> None:
    first = RunDirectory.next_under(tmp_path, "q")
    first.mkdir()
    assert (first.name, RunDirectory.next_under(tmp_path, "q").name) == ("q-001", "q-002")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


def test_whoever_only_looks_keeps_no_run_from_beginning(tmp_path: Path) -> None:
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    Timer(0.05, os.close, [looking]).start()
    with locked(tmp_path, of=tmp_path):
        pass
