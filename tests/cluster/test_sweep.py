"""The sweep on Ray: real trials in processes that are used again, and sweeps that are cut off.

A trial's process takes seconds to start, so that most sweeps here have but one.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import codex_ray
from codex_ray.cli import main
from codex_ray.cluster.sweep import trainable
from codex_ray.config import parse_overrides
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.sweeping.journal import SweepFolder

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"
RATE = "trainer.learning_rate"
NUMBER = "data.args.number"
SET = {"federation.protocol.kind": "ideal", "rounds": 2, "plan": "reference"}
FACTORY = """
import os
import numpy as np
from codex_ray import InMemory, Records

def data(driver, number=0):
    with open("pids", "a") as file:  # in the working directory of the sweep
        file.write(f"{os.getpid()}\\n")
    if number == 1 and os.getpid() != driver:
        raise RuntimeError("the disk is gone")
    if number == 3 and os.getpid() != driver:
        os._exit(1)
    rng = np.random.default_rng(0)
    made = [Records(rng.normal(size=(8, 4)), np.arange(8) % 3) for _ in range(5)]
    return InMemory(made, made[0])
"""
MADE = {
    "name": "made",
    "rounds": 2,
    "seed": 0,
    "plan": "reference",
    "data": {"kind": "python", "factory": "tell_pid:data", "args": {"driver": os.getpid()}},
    "model": {"kind": "linear", "outputs": 3},
    "trainer": {"kind": "sgd", "learning_rate": 0.1},
    "federation": {
        "protocol": {"kind": "ideal"},
        "mechanism": {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": 1.0},
    },
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Any:
    """The working directory of these sweeps, with a data set that tells who opens it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tell_pid.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder


def opened_by(folder: Path) -> list[int]:
    """The processes that opened the data set since this was last asked."""
    file = folder / "pids"
    pids = [int(line) for line in file.read_text().split()] if file.exists() else []
    file.unlink(missing_ok=True)
    return pids


@dataclass(frozen=True)
class Told:
    """A sweep by the command, its exit status, what it printed, and who opened its data."""

    status: int
    said: str
    out: Path
    pids: list[int]

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.out / "sweep.csv").open()))


@pytest.fixture(scope="module")
def failing(ray_local: None, workplace: Path) -> Told:
    """Five trials one after the other; one of them raises, and one takes its process with it."""
    description = {"base": MADE, "grid": {NUMBER: list(range(5))}, "concurrent": 1}
    (workplace / "failing.yaml").write_text(yaml.safe_dump(description))
    out = workplace / "failing"
    opened_by(workplace)
    with redirect_stdout(io.StringIO()) as said:
        status = main(["sweep", "failing.yaml", "--out", str(out)])
    return Told(status, said.getvalue(), out, opened_by(workplace))


def test_processes_are_used_again(failing: Told) -> None:
    trials = set(failing.pids) - {os.getpid()}
    assert len(trials) == 2  # the second in place of the one that was lost


def test_a_failure_ends_its_own_trial_only_and_the_table_says_why(failing: Told) -> None:
    assert failing.status == 1
    status = {row[NUMBER]: row["status"] for row in failing.rows}
    assert [n for n, s in status.items() if s == "failed"] == ["1", "3"]
    assert sum(s == "finished" for s in status.values()) == 3
    assert "the disk is gone" in failing.rows[1]["error"] and failing.rows[3]["error"]
    table = " ".join(failing.said.partition("worth its epsilon?")[2].split())
    assert "failed (seed 0):" in table and "the disk is gone" in table


def test_a_sweep_ends_with_files_that_say_how_the_choice_was_treated(failing: Told) -> None:
    assert "NOT" in failing.said and "trial 5/5" in failing.said
    assert {row["selection"] for row in failing.rows} == {"not accounted"}
    assert (failing.out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((failing.out / "sweep.json").read_text())
    assert "NOT accounted" in found["selection"]["statement"] and len(found["trials"]) == 5
    for number in ("000", "002", "004"):
        assert list((failing.out / "trials" / number / "tensorboard").glob("*.hparams"))


def test_the_delta_of_a_sweep_is_warned_of_as_that_of_a_run(devices, workplace) -> None:
    from codex_ray.cluster.sweep import _warnings
    from codex_ray.sweeping.book import Book
    from codex_ray.sweeping.description import Sweep
    from codex_ray.sweeping.settings import Planner

    description = Sweep(
        base=devices, set=SET, grid={"budget.delta": [1e-5, 0.1, 0.2]}, seeds=(0, 1)
    )
    planner = Planner(description, devices)
    folder = SweepFolder.create(workplace / "warned", description=description, base=devices)
    lines = _warnings(Book(planner, planner.all(), folder))
    said = [line.partition(", and there are 40 clients")[0] for line in lines]
    assert said == ["budget.delta is 0.1", "budget.delta is 0.2"]


def test_the_command_of_the_winner_runs_the_same_model_with_secure_aggregation(
    failing: Told, tmp_path
) -> None:
    found = json.loads((failing.out / "sweep.json").read_text())["best"]
    words = shlex.split(found["command"])
    assert words[:2] == ["codex-ray", "run"]
    alone = codex_ray.run(
        words[2],
        parse_overrides(words[4::2]),
        out=tmp_path / "alone",
    )
    trial = failing.out / "trials" / f"{found['number']:03d}" / "result.json"
    assert alone.model_sha256 == json.loads(trial.read_text())["model_sha256"]
    assert alone.protocol == "secagg_plus" and alone.epsilon == found["epsilon"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_asha_stops_what_is_worse_and_all_trials_read_one_data_set(workplace) -> None:
    """Only the process that began the sweep opens it; the others have it from the object store."""
    opened_by(workplace)
    result = codex_ray.sweep(
        {
            "base": MADE | {"rounds": 6},
            "set": {NOISE: 0.01},
            "grid": {RATE: [0.5, 0.0001, 0.0002, 0.0003]},
            "metric": "loss",
            "goal": "min",
            "stopping": {"kind": "asha", "reduction": 2},
            "concurrent": 1,
        },
        out=workplace / "halved",
    )
    assert opened_by(workplace) == [os.getpid()]
    assert result[0].status == "finished" and result[0].rounds == 6
    stopped = [trial for trial in result if trial.status == "stopped"]
    assert stopped and all(trial.rounds < 6 for trial in stopped)
    assert len(result.points) == 4 - len(stopped)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_trainable_is_for_a_tuner_of_one_s_own(workplace) -> None:
    from ray import tune

    results = tune.Tuner(
        trainable(MADE, workplace / "runs"),
        param_space={CLIP: tune.grid_search([0.5, 1.0]), "seed": 3},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(workplace / "tune"), verbose=0),
    ).fit()
    assert not results.errors
    found = results.get_best_result(metric="accuracy", mode="max").metrics
    alone = codex_ray.run(
        MADE, {"seed": 3, CLIP: found["config"][CLIP]}, out=workplace / "runs" / "alone"
    )
    assert found["accuracy"] == alone.metrics["accuracy"] and found["round"] == 2
    assert len(list((workplace / "runs").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_more_large_trials_than_fit_all_finish(devices, tmp_path) -> None:
    """Eight trials that need two hosts of one CPU each, on a cluster of two CPUs."""
    clips = [0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]
    result = codex_ray.sweep(
        {"base": devices, "set": SET, "grid": {CLIP: clips}, "hosts_per_trial": 2},
        out=tmp_path / "out",
    )
    assert [trial.status for trial in result] == ["finished"] * 8
    alone = codex_ray.run(devices, {**SET, "seed": 0, CLIP: 5.0}, out=tmp_path / "alone")
    assert result[7].metric == alone.metrics["accuracy"]


SEARCHES: dict[str, dict[str, Any]] = {
    "grid": {"grid": {NOISE: [0.5, 1.0, 2.0]}, "seeds": [0, 1]},
    "random": {
        "search": {"kind": "random", "trials": 3},
        "space": {NOISE: {"log_uniform": [0.5, 4.0]}},
        "seeds": [0, 1],
    },
    "median": {
        "grid": {RATE: [0.5, 0.3, 0.4, 0.001, 0.2, 0.002]},
        "set": SET | {NOISE: 0.01},
        "stopping": {"kind": "median", "at_least": 2},
        "metric": "loss",
        "goal": "min",
    },
}
DRIVER = "import sys; from codex_ray.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def cut_off(devices, tmp_path: Path) -> Callable[..., tuple[subprocess.Popen[str], Path, Path]]:
    """Six trials one after the other, in a process of its own, cut off once two have ended."""

    def cut(search: str, number: int) -> tuple[subprocess.Popen[str], Path, Path]:
        described = {"base": devices, "set": SET} | SEARCHES[search] | {"concurrent": 1}
        described["set"] = described["set"] | {"rounds": 20}
        file, out = tmp_path / "sweep.yaml", tmp_path / "cut-off"
        file.write_text(yaml.safe_dump(described))
        with (tmp_path / "said").open("w") as said:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, "sweep", str(file), "--out", str(out)],
                start_new_session=True,
                text=True,
                stdout=said,
                stderr=said,
            )
        journal = out / "trials.jsonl"
        under_way = out / "trials" / "002" / "rounds.jsonl"
        while not (journal.exists() and under_way.exists() and under_way.read_bytes().count(b"\n")):
            assert driver.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.02)
        # As a terminal does, to the driver and to whatever it has started in its group.
        os.killpg(driver.pid, number) if number == signal.SIGINT else driver.send_signal(number)
        driver.wait(timeout=120)
        assert 2 <= journal.read_bytes().count(b"\n") < 6
        return driver, file, out

    return cut


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_sweep_whose_driver_was_killed_ends_with_the_same_table(cut_off, tmp_path, search):
    """kill -9 once two of six trials have ended; what is under way goes on from its checkpoint."""
    _, file, out = cut_off(search, signal.SIGKILL)
    resumed = codex_ray.sweep(resume=out)
    whole = codex_ray.sweep(file, out=tmp_path / "whole")
    assert len(whole) == 6 and resumed.rows() == whole.rows()
    assert (out / "sweep.csv").read_bytes() == (tmp_path / "whole" / "sweep.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_ctrl_c_ends_a_sweep_tidily_and_it_goes_on_as_if_nothing_had_been(
    cut_off, tmp_path
) -> None:
    """Under a rule that stops trials by what others did: also by those before the interruption."""
    driver, file, out = cut_off("median", signal.SIGINT)
    said = (tmp_path / "said").read_text()
    assert driver.returncode == 130, said
    assert f"interrupted: codex-ray sweep --resume {out}" in said and "Traceback" not in said
    ended = {row["status"] for row in csv.DictReader((out / "sweep.csv").open())}
    assert {"finished", "interrupted"} <= ended  # a table of what there is
    before = (out / "trials.jsonl").read_bytes()
    assert main(["sweep", "--resume", str(out)]) == 0
    assert (out / "trials.jsonl").read_bytes().startswith(before)  # nothing was run again
    whole = codex_ray.sweep(file, out=tmp_path / "whole")
    assert {trial.status for trial in whole} == {"finished", "stopped"}
    assert (out / "sweep.csv").read_bytes() == (tmp_path / "whole" / "sweep.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": {"federation.mechanism.noise": [1]}}, "federation.mechanism.noise: unknown key"),
        ({"grid": {"rounds": []}}, "grid: rounds has no values"),
        ({"grid": {}}, "grid: there is nothing to vary"),
        ({"grid": {CLIP: [1, -1]}}, "clip_norm: -1 cannot be used"),
        ({"base": "nowhere.yaml"}, "no such file"),
        ({"grid": {"federation.sampler.rate": [0.5, 0.01]}}, "federation"),
        ({"metric": "f1"}, "no trial reports 'f1'"),
        ({"gird": 1}, "did you mean 'grid'?"),
        ({"grid": {CLIP: [1]}, "epsilons": [1e-9]}, "no noise reaches"),
    ],
)
def test_a_wrong_sweep_is_one_line_before_any_trial(
    change, said, devices, tmp_path, capsys
) -> None:
    if "epsilons" in change:
        devices["budget"] = {"delta": 1e-7}
        devices["federation"]["sampler"] = {"kind": "all"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(devices))
    described = {"base": "base.yaml", "set": SET, "grid": {NOISE: [0.5, 4.0]}} | change
    file, out = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(described))
    assert main(["sweep", str(file), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not out.exists()


def test_a_folder_that_is_taken_is_found_out_first(devices, tmp_path, monkeypatch) -> None:
    from codex_ray.sweeping.settings import Planner

    def settled(self: Planner) -> None:
        raise AssertionError("settings were checked for nothing")

    monkeypatch.setattr(Planner, "settled", settled)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty"):
        codex_ray.sweep({"base": devices, "grid": {NOISE: [1, 2]}}, out=tmp_path / "out")


def test_a_sweep_is_resumed_with_nothing_but_its_folder(tmp_path) -> None:
    with pytest.raises(ConfigError, match="give nothing else"):
        codex_ray.sweep({"grid": {}}, resume=tmp_path)
    with pytest.raises(ConfigError, match="give a description"):
        codex_ray.sweep()
