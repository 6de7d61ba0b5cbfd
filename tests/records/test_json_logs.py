"""Lines of JSON: one a happening, with run and round, that nobody can forge and that end."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rounds_told import told

from codex_ray.errors import RunDirectoryError
from codex_ray.records.json_logs import PACKAGE, JsonLog

LOG = logging.getLogger("codex_ray.federation.round")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Whatever a test does, the package's logger has no handler before it and none after it."""
    logger = logging.getLogger(PACKAGE)
    assert not logger.handlers
    yield
    assert not logger.handlers and logger.level == logging.NOTSET


def lines(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n") and text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_what_is_logged_in_a_round_says_which(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl", run="r-001", first_round=3)
    LOG.warning("client %d is late", 7)
    log.round(told(3))
    LOG.warning("a host was lost", extra={"attempt": 2})
    LOG.warning("of another round", extra={"round": 0})
    log.close()
    LOG.warning("nobody hears this")
    found = lines((tmp_path / "log.jsonl").read_text())
    assert [line["message"] for line in found] == [
        "client 7 is late", "round 3 ended", "a host was lost", "of another round",
    ]  # fmt: skip
    assert [line["round"] for line in found] == [3, 3, 4, 0]
    assert {line["run"] for line in found} == {"r-001"}
    assert [line.get("attempt") for line in found] == [None, 0, 2, None]
    assert found[0]["level"] == "warning" and found[0]["logger"] == LOG.name
    assert found[1]["level"] == "info" and found[1]["logger"] == "codex_ray.rounds"
    assert found[1]["seconds"] == 0.5 and found[1]["dropped"] == {"masked_input": 1, "unmask": 1}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", line["time"]) for line in found)


def test_a_round_without_a_sum_is_a_warning() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, run="r")
    log.round(told(0, aborted="3 of 5 % answered", attempts=2))
    log.close()
    (line,) = lines(stream.getvalue())
    assert line["level"] == "warning" and line["attempt"] == 1
    assert line["aborted"] == "3 of 5 % answered"
    assert line["message"] == "round 0 ended without a sum: 3 of 5 % answered"


def test_only_known_fields_and_no_second_line() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, run="r")
    LOG.warning('one\n{"level": "forged"}\x1b[2J\u2028é', extra={"secret_key": "hunter2"})
    log.close()
    (line,) = lines(stream.getvalue())
    assert line["message"].endswith("\u2028é") and "\x1b" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_an_exception_is_its_kind_its_words_and_its_place() -> None:
    stream = io.StringIO()
    log = JsonLog(stream, run="r")
    try:
        raise ValueError("too few")
    except ValueError:
        LOG.exception("no sum")
    log.close()
    (line,) = lines(stream.getvalue())
    assert line["error"]["kind"] == "ValueError" and line["error"]["message"] == "too few"
    assert re.fullmatch(r"test_json_logs\.py:\d+", line["error"]["at"])


def test_people_are_still_warned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root, stderr = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])  # as in a process that configures no logging
    monkeypatch.setattr(sys, "stderr", stderr)
    log = JsonLog(tmp_path / "log.jsonl", run="r")
    LOG.warning("take care")
    log.round(told(0))
    log.close()
    assert stderr.getvalue() == "take care\n"


def test_loggers_stay_as_people_set_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = JsonLog(tmp_path / "log.jsonl", run="r")
    LOG.info("nobody asked for this")
    log.round(told(0))
    log.close()
    assert len(lines((tmp_path / "log.jsonl").read_text())) == 1
    assert not caplog.records  # a round's line is for the file, not for everybody's handlers


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"message": "whole"}\n{"mess')
    log = JsonLog(file, run="r")
    log.round(told(0))
    log.close()
    whole, cut, after = file.read_text().splitlines()
    assert json.loads(whole) and cut == '{"mess' and json.loads(after)["message"] == "round 0 ended"


def test_a_full_disk_ends_no_run() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    log = JsonLog(Full(), run="r")
    log.round(told(0))
    log.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be written: Is a directory"):
        JsonLog(tmp_path, run="r")
