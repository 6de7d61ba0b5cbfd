"""The book: what is run next, what a killed sweep goes on with, and the table at the end."""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path

import pytest

from codex_ray.api import plan
from codex_ray.config import parse_overrides
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.records.frontier import Point, beaten_by, frontier_of
from codex_ray.sweeping.artefacts import axes_of, write_artefacts
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.rerun import command, overrides_of
from codex_ray.sweeping.settings import Planner

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"
RANDOM = {
    "space": {NOISE: {"log_uniform": [0.5, 8]}, CLIP: {"log_uniform": [0.1, 4]}},
    "search": {"kind": "random", "trials": 6},
}
OPTUNA = RANDOM | {"search": {"kind": "optuna", "trials": 12, "batch": 3}, "seeds": [0, 1]}


@pytest.mark.parametrize(
    "fields", [{"seeds": [0, 1]}, RANDOM, OPTUNA], ids=["grid", "random", "optuna"]
)
def test_a_sweep_that_was_killed_goes_on_to_the_same_table(
    planned, worked, report_of, fields
) -> None:
    whole = worked(planned(**fields), folder="whole")
    worked(planned(**fields), folder="killed", stop=len(whole) // 2)
    lines = SweepFolder.open(whole.directory.parent / "killed").lines
    before = lines.read_bytes()
    lines.write_bytes(before + b'{"key": "[{')  # it was killed in the middle of a line
    run_again = []

    def report(setting):
        run_again.append(setting.key)
        return report_of(setting)

    rest = worked(planned(**fields), folder="killed", report=report)
    assert rest.rows() == whole.rows()
    assert len(run_again) == len(whole) - before.count(b"\n")


def test_optuna_finds_better_settings_than_it_began_with(planned, worked) -> None:
    fields = OPTUNA | {"search": {"kind": "optuna", "trials": 30, "batch": 3}, "seeds": [0]}
    result = worked(planned(**fields))
    assert len(result) == 30
    far = [abs(math.log(t.values[CLIP])) for t in result]
    assert sum(far[20:]) / 10 < sum(far[:10]) / 10


def test_a_setting_that_optuna_should_not_have_proposed_is_a_failed_trial(planned, worked) -> None:
    planner = planned(**OPTUNA)
    valid = planner.trials

    def trials(values):
        if planner._made == 2:
            raise ConfigError("clip_norm: is wrong")
        return valid(values)

    planner.trials = trials
    result = worked(planner)
    assert [t.error for t in result if t.number in (2, 3)] == ["clip_norm: is wrong"] * 2
    assert len(result) == 24 and sum(t.status == "finished" for t in result) == 22


def test_a_failed_trial_says_why_and_is_tried_again(planned, worked, report_of) -> None:
    def report(setting):
        if setting.number == 1:
            return {"error": "there was no room", "finished": True}
        return report_of(setting)

    result = worked(planned(seeds=[0, 1]), report=report)
    assert [t.error for t in result] == ["", "there was no room", "", ""]
    assert len(result.points) == 2 and result.points[0].error is None  # one seed is left
    again = worked(planned(seeds=[0, 1]))
    assert [t.error for t in again] == [""] * 4


def test_a_trial_that_was_stopped_is_no_point_of_the_frontier(planned, worked, report_of) -> None:
    def report(setting):
        stopped = setting.values[NOISE] == 0.5
        return report_of(setting) | {"finished": not stopped, "round": 1 if stopped else 2}

    result = worked(planned(), report=report)
    assert [t.status for t in result] == ["stopped", "finished"]
    assert [p.values[NOISE] for p in result.points] == [4.0]
    assert [t.status for t in worked(planned())] == ["stopped", "finished"]  # and stays so


def test_the_table_is_a_sequence_of_trials_with_columns(planned, worked) -> None:
    result = worked(planned(grid={NOISE: [0.5, 1.0, 4.0], CLIP: [1.0, 2.0]}, seeds=[0, 1]))
    assert len(result) == 12 and result[0].number == 0 and result[-1].number == 11
    assert result["seed"] == [0, 1] * 6
    assert list(result.to_pandas().columns) == result.columns
    with pytest.raises(KeyError, match="the columns are"):
        result["epsilom"]
    assert [p.values[NOISE] for p in result.frontier] == [4.0, 1.0]
    worse = next(p for p in result.points if p.values == {NOISE: 0.5, CLIP: 2.0})
    assert result.beaten_by(worse).values == {NOISE: 1.0, CLIP: 1.0}
    assert result.best.values == {NOISE: 1.0, CLIP: 1.0}
    assert result["selection"] == ["not accounted"] * 12


def test_every_file_says_how_the_choice_was_treated(planned, worked) -> None:
    result = worked(planned(grid={NOISE: [0.5, 1.0], CLIP: [1.0, 2.0]}, seeds=[0, 1]))
    names = write_artefacts(result)
    assert names == ["sweep.csv", "sweep.json", "frontier.png", "heatmap.png"]
    for name in names[2:]:
        assert (result.directory / name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((result.directory / "sweep.csv").open()))
    assert len(rows) == 8 and {row["selection"] for row in rows} == {"not accounted"}
    found = json.loads((result.directory / "sweep.json").read_text())
    assert "NOT accounted" in found["selection"]["statement"]
    assert found["best"]["command"] == command(result, result.best)
    assert axes_of(result) == (NOISE, CLIP)


def test_the_winner_runs_again_in_full_with_secure_aggregation(planned, worked, devices) -> None:
    base = {"federation.protocol.kind": "ideal", "rounds": 2, "plan": "reference"}
    result = worked(planned(set=base, epsilons=[2.0], grid={CLIP: [1.0, 2.0]}))
    words = command(result, result.best)
    assert words.startswith("codex-ray run ") and "base.json" in words

    sets = [
        w
        for before, w in zip(shlex.split(words), shlex.split(words)[1:], strict=False)
        if before == "--set"
    ]
    assert parse_overrides(sets) == overrides_of(result, result.best)
    again = plan(SweepFolder(result.directory).base, parse_overrides(sets))
    assert again.federation.protocol.kind == devices["federation"]["protocol"]["kind"]
    assert again.federation.mechanism.noise_multiplier == result.best.found[NOISE]
    assert again.federation.mechanism.clip_norm == result.best.values[CLIP]
    assert again.rounds == 2 and again.budget.epsilon == 2.0


def test_the_plan_stands_in_the_command_only_where_a_run_would_choose_another(
    planned, worked, monkeypatch
) -> None:
    def plan_of(grid=None, base=None, **fields):
        planner, _ = planned(
            set=fields.pop("set", {"rounds": 2}), grid={CLIP: [1.0]}, **fields
        ).settled()
        if base:
            planner = Planner(planner.description, planner.base | base)
        result = worked(planner, folder=f"sweep-{len(seen)}")
        seen.append(overrides_of(result, result.best))
        return seen[-1].get("plan")

    seen: list[dict] = []
    assert plan_of() is None  # a stack of layers is always vectorised on a CPU
    assert plan_of(plan="reference")["kernel"] == "reference"
    assert plan_of(set={"rounds": 2, "plan": "reference"})["kernel"] == "reference"
    assert plan_of(set={"rounds": 2, "plan.kernel": "auto"})["kernel"] == "vectorised"
    assert plan_of(base={"plan": {"precision": "float32"}})["kernel"] == "vectorised"
    assert not any(key.startswith("plan.") for overrides in seen for key in overrides)
    monkeypatch.setattr("codex_ray.sweeping.rerun.GPU", Path(__file__))
    assert plan_of()["device"] == "cpu"  # where a run would take the GPU


@pytest.mark.parametrize(
    ("grid", "kind"),
    [({"federation.protocol.kind": ["one_shot"]}, "one_shot"), ({CLIP: [1.0]}, "secagg_plus")],
)
def test_a_secure_protocol_that_was_swept_stays(planned, worked, grid, kind) -> None:
    result = worked(planned(grid=grid))
    assert overrides_of(result, result.best).get("federation.protocol.kind", "secagg_plus") == kind


def test_a_folder_holds_one_sweep(planned, worked, tmp_path) -> None:
    planner = planned()
    result = worked(planner)
    with pytest.raises(RunDirectoryError, match="holds another sweep"):
        SweepFolder.create(result.directory, description=planner.description, base=planner.base)
    with pytest.raises(RunDirectoryError, match="holds no sweep"):
        SweepFolder.open(tmp_path)
    folder = SweepFolder.open(result.directory)
    assert folder.read()[0].grid == planner.description.grid
    with (
        folder.locked(),
        pytest.raises(RunDirectoryError, match="another process"),
        folder.locked(),
    ):
        pass


def test_what_is_dominated_is_not_worth_its_epsilon() -> None:
    points = [
        Point.of(values={"z": z}, epsilon=e, scores=s)
        for z, e, s in [(4, 1.0, [0.5]), (3, 2.0, [0.4]), (2, 3.0, [0.7, 0.9]), (1, 9.0, [0.8])]
    ]
    best = frontier_of(points)
    assert [p.values["z"] for p in best] == [4, 2]
    assert [beaten_by(p, best) for p in points] == [None, points[0], None, points[2]]
    assert [p.values["z"] for p in frontier_of(points, goal="min")] == [4, 3]
    assert points[2].score == pytest.approx(0.8) and points[2].error == pytest.approx(0.1)
