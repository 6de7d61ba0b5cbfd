"""The sweep on Ray: real trials in processes that are used again, and one that is killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import codex_ray
from codex_ray.cluster.sweep import sweep_and_show, trainable
from codex_ray.errors import ConfigError

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"
SET = {"federation.protocol.kind": "ideal", "rounds": 2, "plan": "reference"}


@pytest.fixture
def file(devices: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(devices))
    path = tmp_path / "sweep.yaml"
    grid = {NOISE: [0.5, 4.0], CLIP: [0.5]}
    path.write_text(yaml.safe_dump({"name": "tiny", "base": "base.yaml", "set": SET, "grid": grid}))
    return path


@pytest.mark.usefixtures("ray_local")
def test_a_sweep_ends_with_tables_files_and_a_command(file, devices, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert sweep_and_show(str(file), {}, out=str(out)) == 0
    said = capsys.readouterr().out
    assert "NOT" in said and "accounted" in said and "trial 2/2" in said
    assert f"codex-ray run {out / 'base.json'} --set" in said
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [row[NOISE] for row in rows] == ["0.5", "4.0"]
    assert {row["selection"] for row in rows} == {"not accounted"}
    assert float(rows[0]["epsilon"]) > float(rows[1]["epsilon"]) > 0
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    for number in ("000", "001"):
        assert list((out / "trials" / number / "tensorboard").glob("*.hparams"))
    again = {**SET, "seed": 0, NOISE: 4.0, "federation.protocol.kind": "secagg_plus"}
    alone = codex_ray.run(devices, again, out=tmp_path / "alone")
    assert float(rows[1]["accuracy"]) == alone.metrics["accuracy"]
    assert float(rows[1]["epsilon"]) == alone.epsilon


FACTORY = """
import os
import pathlib
import numpy as np
from codex_ray import InMemory, Records

def data(number, driver):
    with open("pids", "a") as file:  # in the working directory of the sweep
        file.write(f"{os.getpid()}\\n")
    if number == 2 and os.getpid() != driver:
        raise RuntimeError("the disk is gone")
    if number == 4 and os.getpid() != driver:
        os._exit(1)
    rng = np.random.default_rng(0)
    made = [Records(rng.normal(size=(8, 4)), np.arange(8) % 3) for _ in range(5)]
    return InMemory(made, made[0])
"""


@pytest.mark.usefixtures("ray_local")
def test_processes_are_used_again_and_a_failure_ends_its_own_trial_only(
    tmp_path, monkeypatch
) -> None:
    """Nine trials in two processes; one of them raises, and one takes its process with it."""
    (tmp_path / "tell_pid.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    base = {
        "rounds": 1,
        "plan": "reference",
        "data": {"kind": "python", "factory": "tell_pid:data", "args": {"driver": os.getpid()}},
        "model": {"kind": "linear", "outputs": 3},
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
    }
    result = codex_ray.sweep(
        {"base": base, "grid": {"data.args.number": list(range(9))}}, out="out"
    )
    failed = {trial.number: trial.error for trial in result if trial.status == "failed"}
    assert sorted(failed) == [2, 4] and "the disk is gone" in failed[2]
    assert sum(trial.status == "finished" for trial in result) == 7
    pids = set(Path("pids").read_text().split()) - {str(os.getpid())}
    assert 2 <= len(pids) <= 3  # and one more in place of the one that was lost


@pytest.mark.usefixtures("ray_local")
def test_asha_stops_what_is_worse_and_the_sweep_says_so(file, tmp_path) -> None:
    result = codex_ray.sweep(
        file,
        {
            "set": SET | {"rounds": 6},
            "grid": {CLIP: [0.5], "trainer.learning_rate": [0.2, 0.001, 0.0005, 0.0001]},
            "stopping": {"kind": "asha", "reduction": 2},
            "concurrent": 1,
        },
        out=tmp_path / "out",
    )
    assert result[0].status == "finished" and result[0].rounds == 6
    stopped = [trial for trial in result if trial.status == "stopped"]
    assert stopped and all(trial.rounds < 6 for trial in stopped)
    assert len(result.points) == 4 - len(stopped)


@pytest.mark.usefixtures("ray_local")
def test_the_trainable_is_for_a_tuner_of_one_s_own(devices, tmp_path) -> None:
    from ray import tune

    results = tune.Tuner(
        trainable(devices, tmp_path / "runs", overrides=SET),
        param_space={CLIP: tune.grid_search([0.5, 1.0]), "seed": 3},
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    ).fit()
    assert not results.errors
    found = results.get_best_result(metric="accuracy", mode="max").metrics
    alone = codex_ray.run(
        devices, {**SET, "seed": 3, CLIP: found["config"][CLIP]}, out=tmp_path / "a"
    )
    assert found["accuracy"] == alone.metrics["accuracy"] and found["round"] == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_more_large_trials_than_fit_all_finish(file, devices, tmp_path) -> None:
    """Eight trials that need two hosts of one CPU each, on a cluster of two CPUs."""
    result = codex_ray.sweep(
        file,
        {"grid": {CLIP: [0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]}, "hosts_per_trial": 2},
        out=tmp_path / "out",
    )
    assert [trial.status for trial in result] == ["finished"] * 8
    alone = codex_ray.run(devices, {**SET, "seed": 0, CLIP: 5.0}, out=tmp_path / "alone")
    assert result[7].metric == alone.metrics["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_sweep_whose_driver_was_killed_ends_with_the_same_table(file, tmp_path, search) -> None:
    """kill -9 once two of six trials have ended; what is under way goes on from its checkpoint."""
    description = yaml.safe_load(file.read_text()) | {"seeds": [0, 1, 2], "concurrent": 1}
    description["set"] |= {"rounds": 20}
    if search == "random":
        description |= {"search": {"kind": "random", "trials": 2}, "grid": {CLIP: [0.5]}}
        description["space"] = {NOISE: {"log_uniform": [0.5, 4.0]}}
    file.write_text(yaml.safe_dump(description))
    whole = codex_ray.sweep(file, out=tmp_path / "whole")
    killed = tmp_path / "killed"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(file), str(killed)], start_new_session=True
    )
    journal = killed / "trials.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert driver.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert journal.read_bytes().count(b"\n") < 6
    resumed = codex_ray.sweep(resume=killed)
    assert (killed / "sweep.csv").read_bytes() == (tmp_path / "whole" / "sweep.csv").read_bytes()
    assert resumed.rows() == whole.rows()


DRIVER = "import sys, codex_ray; codex_ray.sweep(sys.argv[1], out=sys.argv[2])"


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
    ],
)
def test_a_wrong_sweep_is_refused_before_any_trial(change, said, file, tmp_path) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    with pytest.raises(ConfigError) as error:
        codex_ray.sweep(file, out=tmp_path / "out")
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_sweep_is_resumed_with_nothing_but_its_folder(file, tmp_path) -> None:
    with pytest.raises(ConfigError, match="give nothing else"):
        codex_ray.sweep(file, resume=tmp_path)
    with pytest.raises(ConfigError, match="give a description"):
        codex_ray.sweep()
