"""The experiments that ship reach the figures that the documents quote."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import codex_ray
from codex_ray.accounting import costs
from codex_ray.config import experiment_from, load_yaml

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "experiments" / "quickstart.yaml"
HERE = {"cluster.hosts": 0}


def test_the_quickstart_is_what_the_readme_shows(tmp_path: Path) -> None:
    """On one process, which gives the model of the ten actors to the bit."""
    result = codex_ray.run(QUICKSTART, HERE, out=tmp_path / "run")
    assert result.protocol == "secagg" and result.clients == 10
    assert result.metrics["accuracy"] >= 0.87 and result.masks_recovered > 0
    assert result.rounds >= 20 and result.stopped == "rounds"
    assert all(s["unit"] == "record" and s["epsilon"] <= 3 for s in result.privacy)
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"federated \(secagg\)\s*│\s*([\d.]+)\s*│\s*([\d.]+)\s*│\s*([\d.]+)", readme)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(result.metrics["accuracy"], abs=6e-4)
    assert float(shown[2]) == pytest.approx(result.metrics["auc"], abs=6e-4)
    assert float(shown[3]) == pytest.approx(result.epsilon, abs=6e-3)


def test_account_says_what_the_quickstart_will_cost() -> None:
    last = list(costs(experiment_from(load_yaml(QUICKSTART))))[-1]
    assert last.epsilon == pytest.approx(2.9479, abs=1e-4) and last.affordable
    assert "2.9479" in (ROOT / "docs" / "quickstart.md").read_text()


@pytest.mark.slow
def test_the_quickstart_over_ten_seeds(tmp_path: Path) -> None:
    results = [
        codex_ray.run(QUICKSTART, HERE | {"seed": seed}, out=tmp_path / str(seed))
        for seed in range(10)
    ]
    accuracy = [result.metrics["accuracy"] for result in results]
    alone = [result.baselines["alone"]["accuracy"] for result in results]
    assert np.mean(accuracy) >= 0.93 and min(accuracy) >= 0.87
    assert np.mean(accuracy) >= np.mean(alone) + 0.08
    assert max(result.epsilon for result in results) <= 3
    rows = re.findall(r"^\| (\d) \| (\.\d+) \|", (ROOT / "docs/quickstart.md").read_text(), re.M)
    assert [(int(s), float(a)) for s, a in rows] == [
        (seed, pytest.approx(value, abs=6e-4)) for seed, value in enumerate(accuracy)
    ]


@pytest.mark.slow
def test_the_cross_device_experiment(tmp_path: Path) -> None:
    result = codex_ray.run(ROOT / "experiments" / "cross_device.yaml", HERE, out=tmp_path / "run")
    assert result.clients == 1000 and result.protocol == "secagg_plus"
    assert result.metrics["accuracy"] == pytest.approx(0.925, abs=6e-4)
    assert [s["unit"] for s in result.privacy] == ["client"] and result.epsilon <= 2


def test_the_example_is_forty_lines_and_runs(tmp_path: Path) -> None:
    file = ROOT / "examples" / "own_model_and_data.py"
    code = [
        line
        for line in file.read_text().splitlines()
        if line.strip() and not line.startswith('"""')
    ]
    assert len(code) <= 45
    result = runpy.run_path(str(file))["main"](out=tmp_path / "run")
    assert result.metrics["accuracy"] > 0.85 and result.epsilon < 8
    assert result.privacy[0]["unit"] == "record"
