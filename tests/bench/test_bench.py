"""The benchmark measures what it says: right sums, floors below them, bars that can be missed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from codex_ray.bench.processes import cpu_seconds, family, memory, watching_memory
from codex_ray.bench.secagg import Row, bench, to_json
from codex_ray.bench.settings import SETTINGS
from codex_ray.cli import main

SMALL = {setting.name: setting.scaled(0.02) for setting in SETTINGS}
HERE = [name for name, setting in SMALL.items() if not setting.hosts]


@pytest.fixture(scope="module")
def default() -> Row:
    """One row, measured once."""
    (row,) = bench([SMALL["default"]])
    return row


@pytest.mark.parametrize(
    "name",
    [name if name == "default" else pytest.param(name, marks=pytest.mark.slow) for name in HERE],
)
def test_a_round_is_exact_and_slower_than_its_floor(name, default: Row) -> None:
    (row,) = [default] if name == "default" else bench([SMALL[name]])
    assert row.exact and row.clients >= 70
    assert 0 < row.floor < row.seconds
    assert row.bytes_up > row.clients * row.dimension
    assert to_json([row])[0]["holds"] == row.holds


def test_a_bar_can_be_missed(default: Row) -> None:
    # How fast this machine is just now is not what is tested.
    row = replace(
        default, seconds=1.0, bar_here=1.5, client_ms=1.0, client_bar_here=2.0, masking=1.0
    )
    missed = replace(row, bar_here=row.seconds / 2)
    assert row.holds and not missed.holds
    assert not replace(row, exact=False).holds
    assert not replace(row, client_bar_here=1e-6).holds
    assert not replace(row, memory=10, memory_bar=5.0).holds
    assert not replace(row, masking=0.5).holds


def test_the_settings_are_those_that_the_bars_are_for() -> None:
    plans = {
        setting.name: setting.protocol.plan(setting.clients)
        for setting in SETTINGS
        if setting.name != "one-shot"
    }
    assert (plans["semi-honest"].degree, plans["semi-honest"].threshold) == (30, 17)
    assert (plans["default"].degree, plans["default"].threshold) == (52, 37)
    assert (plans["hosts"].degree, plans["hosts"].threshold) == (34, 20)
    assert plans["complete"].complete
    (one_shot,) = (setting for setting in SETTINGS if setting.name == "one-shot")
    assert one_shot.protocol.plan(1000).size == 36


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path, capsys) -> None:
    out = tmp_path / "figures.json"
    arguments = ["bench", "secagg", "--only", "semi-honest", "--scale", "0.02", "--json", str(out)]
    assert main(arguments) == 0
    assert "semi-honest" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["keystream"] in ("ctr", "gcm") and figures["rows"][0]["exact"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nonsense"], "there is no nonsense: choose of semi-honest"),
        (["--scale", "2"], "--scale is 2: give a factor above 0 and up to 1"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, said, capsys) -> None:
    assert main(["bench", "secagg", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_processes_are_seen() -> None:
    import os

    before = cpu_seconds()
    with watching_memory(every=0.01) as peak:
        held = bytearray(60_000_000)
        held[::4096] = b"x" * len(held[::4096])
        now = memory()
    assert os.getpid() in family()
    # The two looks are not at one moment: a few pages come and go in between.
    assert peak.bytes + 1_000_000 >= now > 60_000_000
    assert cpu_seconds() >= before
    del held
