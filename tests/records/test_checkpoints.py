"""A run goes back to the last good checkpoint, and what was released since stays paid for."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, killing

import codex_ray
from codex_ray.errors import HostLost, RunDirectoryError
from codex_ray.federation.state import RoundResult
from codex_ray.federation.transport import LocalTransport
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.ownership import claimed
from codex_ray.records.result import RunResult


@pytest.fixture
def tiny(silos: dict[str, Any]) -> dict[str, Any]:
    federation = silos["federation"] | {"protocol": {"kind": "ideal"}, "dropouts": {}}
    return silos | {"federation": federation, "rounds": 3, "name": "tiny"}


class Interrupted(Exception):  # noqa: N818  # the test's own Ctrl-C
    pass


def cut_after(config: dict[str, Any], rounds: int, *, out: Path) -> Path:
    """The directory of a run that was interrupted after so many rounds."""

    def watch(result: RoundResult | None) -> None:
        if result is not None and result.round + 1 == rounds:
            raise Interrupted

    with pytest.raises(Interrupted):
        codex_ray.run(config, out=out, watch=watch)
    return out


def newest(path: Path) -> Path:
    return sorted((path / "checkpoint").glob("round-*"))[-1]


def harm(file: Path, how: str) -> None:
    content = file.read_bytes()
    garbled = bytearray(content)
    garbled[len(content) // 2] ^= 4
    file.write_bytes({"cut": content[:-9], "empty": b"", "garbled": bytes(garbled)}[how])


def charges(path: Path) -> list[list[dict[str, Any]]]:
    lines = (path / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["charged"] for line in lines]


def aborted(path: Path) -> list[str | None]:
    lines = (path / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["aborted"] for line in lines]


@pytest.mark.parametrize("how", ["cut", "empty", "garbled", "foreign"])
def test_a_seeded_run_goes_back_and_comes_out_the_same(tiny, how, tmp_path, caplog) -> None:
    whole = codex_ray.run(tiny, out=tmp_path / "whole")
    path = cut_after(tiny, 2, out=tmp_path / "cut")
    if how == "foreign":  # of a run with the same seed, so with the same bytes as its name
        other = cut_after(tiny | {"rounds": 5}, 2, out=tmp_path / "other")
        shutil.copy(newest(other), newest(path))
    else:
        harm(newest(path), how)
    name = newest(path).name
    caplog.clear()
    resumed = codex_ray.run(resume=path)
    assert resumed.model_sha256 == whole.model_sha256 and resumed.privacy == whole.privacy
    said = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert len(said) == 1 and name in said[0] and "\n" not in said[0]
    assert said[0].endswith("going back to the checkpoint before round 1")
    assert (path / "checkpoint" / f"aside-{name}").exists()
    assert said[0] in [json.loads(it)["message"] for it in (path / "log.jsonl").open()]


def test_with_no_good_one_left_nothing_is_made_up(tiny, tmp_path) -> None:
    path = cut_after(tiny, 2, out=tmp_path / "cut")
    for file in (path / "checkpoint").glob("round-*"):
        harm(file, "cut")
    with pytest.raises(RunDirectoryError, match="no other is left: start a new run"):
        codex_ray.run(resume=path)


def test_a_journal_that_lost_lines_takes_the_checkpoint_before(tiny, tmp_path, caplog) -> None:
    whole = codex_ray.run(tiny, out=tmp_path / "whole")
    path = cut_after(tiny, 3, out=tmp_path / "cut")
    lines = (path / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (path / "rounds.jsonl").write_bytes(lines[0] + lines[1][:20])
    resumed = codex_ray.run(resume=path)
    assert resumed.model_sha256 == whole.model_sha256
    assert len(charges(path)) == 3 and "has lost" in caplog.text


def test_what_was_released_since_is_paid_for(tiny, tmp_path, caplog) -> None:
    """Round 1 was released; the only checkpoint that says so is harmed; it has no second sum."""
    unseeded = tiny | {"seed": None, "budget": {"delta": 1e-5}}
    path = cut_after(unseeded, 2, out=tmp_path / "cut")
    # Before round 2, with nothing reserved for it: rounds 0 and 1 are released.
    before = Checkpoints(path / "checkpoint").load()
    assert (before.round, before.totals.unsettled) == (2, [])
    harm(newest(path), "garbled")
    resumed = codex_ray.run(resume=path)
    assert resumed.rounds == 3
    # What the older checkpoint had reserved for it is paid for: nothing else was released since.
    assert [len(it) for it in charges(path)] == [1, 1, 1]
    assert [it is not None for it in aborted(path)] == [False, True, False]
    plain = codex_ray.run(unseeded, out=tmp_path / "plain")
    assert resumed.epsilon >= plain.epsilon  # everyone is in every cohort: three are paid for
    document = json.loads((path / "privacy.json").read_text())
    assert document["certificate"] is not None, document["refused"]


def dead_in_an_attempt(config: dict[str, Any], path: Path) -> int:
    """A run that died while it was at a round, which is returned; its checkpoint then is harmed."""
    ordinary, asked = LocalTransport.exchange, [0]

    def dying(self, outbox):
        asked[0] += 1
        if asked[0] > 2:  # a trip a round
            raise Interrupted
        return ordinary(self, outbox)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LocalTransport, "exchange", dying)
        codex_ray.run(config, out=path)
    kept = Checkpoints(path / "checkpoint").load()
    assert kept.round >= 1 and len(kept.totals.unsettled) == 1
    harm(newest(path), "garbled")
    return kept.round


def certified(path: Path) -> bool:
    """Whether the ledger is the one that rounds.jsonl explains: a payment short, and it is not."""
    return json.loads((path / "privacy.json").read_text())["certificate"] is not None


def test_an_attempt_that_only_the_harmed_checkpoint_knew_is_paid_for(tiny, tmp_path) -> None:
    unseeded = tiny | {"seed": None, "budget": {"delta": 1e-5}}
    at = dead_in_an_attempt(unseeded, tmp_path / "cut")
    resumed = codex_ray.run(resume=tmp_path / "cut")
    # The round before it, which may have been opened, and the attempt itself.
    assert len(charges(tmp_path / "cut")[at - 1]) == 2 and certified(tmp_path / "cut")
    assert aborted(tmp_path / "cut")[at - 1] is not None
    four = codex_ray.run(unseeded | {"rounds": 4}, out=tmp_path / "four")
    assert resumed.epsilon >= four.epsilon


@pytest.mark.parametrize("at", range(1, 11))
def test_what_is_paid_for_stays_so_when_it_is_killed_again(tiny, at, tmp_path) -> None:
    """Between finding a checkpoint harmed and having the payment in another."""
    unseeded = tiny | {"seed": None, "budget": {"delta": 1e-5}, "rounds": 3}
    path = tmp_path / "cut"
    round_ = dead_in_an_attempt(unseeded, path)
    with pytest.raises(Killed), killing(path, at=at):
        codex_ray.run(resume=path)
    codex_ray.run(resume=path)
    assert len(charges(path)[round_ - 1]) >= 2 and certified(path)


@pytest.mark.parametrize("how", ["gone", "cut", "of another run"])
def test_what_nobody_knows_is_not_left_out(tiny, how, tmp_path) -> None:
    path = cut_after(tiny | {"seed": None}, 2, out=tmp_path / "cut")
    harm(newest(path), "cut")
    told = sorted((path / "checkpoint").glob("reserved-*"))
    assert len(told) == 2
    if how == "gone":
        told[-1].unlink()
    elif how == "cut":
        told[0].write_bytes(told[0].read_bytes()[:-5])
    else:
        other = cut_after(tiny | {"seed": None}, 2, out=tmp_path / "other")
        shutil.copy(other / "checkpoint" / told[0].name, told[0])
    with pytest.raises(RunDirectoryError, match=r"what round \d showed is not known"):
        codex_ray.run(resume=path)
    assert newest(path).name == "round-000002.safetensors", "nothing was moved"


def test_a_writer_that_was_overtaken_stops_before_it_replaces_anything(tiny, tmp_path) -> None:
    path = cut_after(tiny, 1, out=tmp_path / "run")
    folder = path / "checkpoint"
    state = Checkpoints(folder).load()
    with claimed(folder, of=path) as claim:
        (folder / "writer").write_text("0" * 32 + " process 7 on elsewhere\n")  # it has no lock
        held = {it.name: it.read_bytes() for it in folder.iterdir()}
        with pytest.raises(RunDirectoryError, match="process 7 on elsewhere goes on with this"):
            Checkpoints(folder, claim=claim).save(state)
    assert {it.name: it.read_bytes() for it in folder.iterdir()} == held


def test_the_one_file_that_an_overtaken_writer_was_at_is_not_lost(tiny, tmp_path) -> None:
    path = cut_after(tiny | {"seed": None}, 1, out=tmp_path / "run")
    checkpoints = Checkpoints(path / "checkpoint")
    state = checkpoints.recover().state
    Checkpoints(path / "checkpoint").save(state)  # that of the other, a moment later
    with pytest.raises(RunDirectoryError, match="resume it once more"):
        checkpoints.save(state)


def test_a_second_writer_waits_for_the_first_and_then_says_who_it_is(tmp_path) -> None:
    with (
        claimed(tmp_path, of=tmp_path / "run"),
        pytest.raises(RunDirectoryError, match=r"run: process \d+ on .* still writes to it"),
        claimed(tmp_path, of=tmp_path / "run", patience=0.05),
    ):
        pass
    with claimed(tmp_path, of=tmp_path / "run", patience=0):
        pass


def test_without_locks_the_id_is_what_keeps_two_apart(tmp_path, monkeypatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("codex_ray.records.run_directory.fcntl.flock", none)
    with claimed(tmp_path, of=tmp_path) as first:
        first.check()
        with claimed(tmp_path, of=tmp_path) as second:
            second.check()
            with pytest.raises(RunDirectoryError, match="this process stops"):
                first.check()


def test_two_that_begin_at_once_do_not_share(tiny, tmp_path, monkeypatch) -> None:
    """The second looks before the first has written, and writes after it has."""
    codex_ray.run(tiny, out=tmp_path / "run")
    kept = (tmp_path / "run" / "config.yaml").read_bytes()
    monkeypatch.setattr("codex_ray.records.run_directory.check_free", lambda *_, **__: None)
    with pytest.raises(RunDirectoryError, match="another run was begun there"):
        codex_ray.run(tiny | {"rounds": 1}, out=tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == kept
    assert RunResult.read(tmp_path / "run").rounds == 3


def test_lost_hosts_leave_what_they_did(tiny, tmp_path, monkeypatch) -> None:
    """The second file says what the first does, also when a round is tried more than once."""
    ordinary, failing = LocalTransport.exchange, [True]

    def losing(self, outbox):
        if failing.pop() if failing else False:
            raise HostLost("gone")
        return ordinary(self, outbox)

    monkeypatch.setattr(LocalTransport, "exchange", losing)
    path = cut_after(tiny | {"seed": None}, 1, out=tmp_path / "run")
    told = json.loads((path / "checkpoint" / "reserved-000000.json").read_text().split("\n")[1])
    assert len(told["unsettled"]) == 2
