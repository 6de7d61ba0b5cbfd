"""The sweeps of the repository can be run: every setting of theirs is a valid experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config import load_yaml, validated
from codex_ray.sweeping.description import Sweep
from codex_ray.sweeping.settings import Planner

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("sweep_*.yaml")), ids=lambda f: f.stem)
def test_every_setting_is_an_experiment(file: Path) -> None:
    description = validated(Sweep, load_yaml(file))
    planner = Planner(description, load_yaml(FOLDER / str(description.base)))
    trials = planner.all()
    assert trials is None or len(trials) >= 1
    for cost in planner.selection_costs():
        assert cost.single < cost.epsilon < 4 * cost.single
