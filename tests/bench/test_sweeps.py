"""The benchmark of sweeps counts whatever was used, and its bars can be missed."""

from __future__ import annotations

import sys

import pytest

from codex_ray.bench import sweeps
from codex_ray.bench.sweeps import CLIP, DEVICES, NOISE, Spent, _row, compared, spent_by
from codex_ray.config import load_yaml, override
from codex_ray.errors import ClusterError

BUSY = "import time\nwhile time.process_time() < {}: pass\n"
NESTED = (
    "import subprocess, sys\n"
    "child = [sys.executable, '-c', sys.argv[1]]\n"
    "subprocess.run(child)\n"  # one that is waited for
    "subprocess.Popen(child, start_new_session=True)\n"  # and one that outlives the command
)


def test_whatever_a_command_starts_is_counted_even_what_outlives_it() -> None:
    spent = spent_by([sys.executable, "-c", NESTED, BUSY.format(0.8)], {})
    assert 1.2 < spent.total < 3.0
    assert spent.wall > 0 and 0 <= spent.others <= 1


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(ClusterError, match="there is no room"):
        spent_by([sys.executable, "-c", "raise SystemExit('there is no room')"], {})


def test_the_bar_is_on_the_ratio_on_long_runs_and_on_the_same_models() -> None:
    single = Spent({"python": 100.0}, 100.0, 0.0)

    def row(seconds: float, *, same: bool = True, least: float = 15.0):
        swept = Spent({"python": 10.0, "raylet": seconds - 10.0}, 60.0, 0.0)
        return _row(swept, single, runs=5, same=same, least=least)

    assert row(124.0).holds and not row(126.0).holds
    assert not row(110.0, same=False).holds
    assert not row(110.0, least=21.0).holds
    assert "1.10x: 110 CPU s (raylet 100, python 10)" in row(110.0).found


def test_the_bar_s_grid_is_the_issue_s(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(sweeps, "rounds_for", lambda seconds: 7)
    monkeypatch.setattr(sweeps, "compared", lambda grid, base, least: asked.update(grid) or base)
    (base,) = sweeps.noise_and_clip(1.0)
    assert len(asked[NOISE]) * len(asked[CLIP]) == 24 and len(sweeps.SEEDS) == 2
    assert base["rounds"] == 7
    list(sweeps.noise_and_clip(1 / 6))
    assert len(asked[NOISE]) * len(asked[CLIP]) == 4


def test_the_experiment_is_the_cross_device_one(request) -> None:
    """But for its protocol, its budget and where it runs, which the sweep of it sets."""
    file = request.config.rootpath / "experiments" / "cross_device.yaml"
    shipped = override(load_yaml(file), {"federation.protocol.kind": "ideal"})
    for field in ("question", "budget", "cluster"):
        del shipped[field]
    assert shipped == DEVICES


@pytest.mark.slow
def test_a_small_sweep_is_compared_with_its_runs() -> None:
    row = compared({NOISE: [0.9, 1.8]}, DEVICES | {"rounds": 2}, least=0.0)
    found = {figure.what: figure for figure in row.figures}
    assert found["the same models, to the bit (1: yes)"].holds
    assert found["CPU seconds of the sweep"].value > found["CPU seconds one after the other"].value
    assert not row.holds  # four runs of two rounds are nothing beside starting Ray
