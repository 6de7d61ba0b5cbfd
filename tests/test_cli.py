"""The command line as a person meets it: results, one-line errors, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from codex_ray import __version__
from codex_ray.cli import main
from codex_ray.config import experiment_from, schema


@pytest.fixture
def file(silos: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "silos.yaml"
    path.write_text(yaml.safe_dump(silos))
    return path


def test_run_prints_a_round_a_line_and_ends_with_the_table(file, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out), "--set", "compare.epochs=5"]) == 0
    said = capsys.readouterr().out
    for words in ("round 1/3: accuracy", "round 3/3", "survive", "clients/s", "Together",
                  "federated (secagg)", "all records pooled", "a client alone, on average",
                  "epsilon", "dropouts survived",
                  "report.html", "tensorboard --logdir", "SIMULATION"):  # fmt: skip
        assert words in said
    result = json.loads((out / "result.json").read_text())
    assert result["baselines"].keys() == {"alone", "alone_worst", "pooled"}


def test_set_overrides_any_field(file, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assignments = ["rounds=1", "federation.protocol.kind=ideal", "trainer.learning_rate=2e-1"]
    sets = [x for a in assignments for x in ("--set", a)]
    assert main(["run", str(file), "--out", str(out), *sets]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["federation"]["protocol"]["kind"] == "ideal"
    assert config["trainer"]["learning_rate"] == 0.2
    assert len((out / "rounds.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("roudns=3", "roudns: unknown key: did you mean 'rounds'?"),
        ("trainer.clip_nrom=3", "trainer.clip_nrom: unknown key: did you mean 'clip_norm'?"),
        ("federation.protocol.kind=secag", (
            "federation.protocol.kind: 'secag' is no kind of "
            "protocol"
        )),
        ("federation.protocol.kind=one_shott", "is no kind of protocol"),
        ("federation.sampler={kind: fixed, size: 9}", "federation.sampler.size is 9"),
        ("budget.epsilon=0", "budget.epsilon: 0 cannot be used: it must be greater than 0"),
        ("budget.epsilon=-1", "budget.epsilon: -1 cannot be used"),
        ("budget.delta=1", "budget.delta: 1 cannot be used: it must be less than 1"),
        ("rounds=many", "rounds: 'many' cannot be used: it must be a valid integer"),
        ("federation.protocol.threshold=20", "threshold is 20, but the cohort is 6"),
        ("trainer.batches={kind: shuffled}", "no sound privacy accounting"),
        ("data={kind: csv, files: [/no/such/file.csv], label: y, ranges: {x: [0, 1]}, "
         "test_fraction: 0.2}", "/no/such/file.csv"),
        ("data.clients=0", "data.clients: 0 cannot be used"),
        ("data.ranges={maen radius: [0, 1]}", "did you mean 'mean radius'?"),
        ("model=no_such_module:build", "model.factory: there is no module 'no_such_module'"),
        ("model=tests.test_cli:nothing", "tests.test_cli has no 'nothing'"),
        ("model=tests.test_cli:with_batch_norm", "is BatchNorm1d"),
        ("model=tests.test_cli:broken", "tests.test_cli:broken raised ZeroDivisionError"),
        pytest.param(  # starts a Ray before it knows
            "cluster.hosts=7",
            "cluster.hosts is 7, but there are only 6 clients",
            marks=pytest.mark.slow,
        ),
        ("seed=true", "seed: True cannot be used"),
        ("data=tests.test_cli:with_nan", "is nan: impute or drop it"),
        ("federation.mechanism={kind: correlated_gaussian, clip_norm: 1, noise_multiplier: 1}|"
         "federation.sampler={kind: fixed, size: 4}", "federation.sampler.kind to spaced"),
        ("federation.protocol=3", "federation.protocol"),
        ("cluster.address=rays://head:10001", "cluster.address: 'rays://head:10001' cannot be"),
        ("rounds.a=3", "rounds is a value, not a section"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(assignment, said, file, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    sets = [x for a in assignment.split("|") for x in ("--set", a)]
    assert main(["run", str(file), "--out", str(out), *sets]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("codex-ray: ") and error.count("\n") == 1
    assert not out.exists(), "something was left half-written"


def with_batch_norm() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def broken() -> Any:
    return 1 / 0


def with_nan() -> Any:
    import numpy as np

    from codex_ray import InMemory, Records

    good = Records(np.zeros((4, 3), np.float32), np.arange(4) % 2)
    bad = Records(good.features.copy(), good.labels)
    bad.features[2, 1] = np.nan

    class Data:
        population = 6

        def client(self, client: int) -> Records:
            return bad if client == 4 else good

        def test(self) -> Records:
            return good

    assert InMemory([good], good).population == 1
    return Data()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "experiments/quickstrat.yaml"], "did you mean 'quickstart.yaml'?"),
        (["run"], "give a config, or a directory to resume"),
        (["run", "--resume", "nowhere"], "nowhere: holds no run"),
        (["run", "experiments/quickstart.yaml", "--set", "rounds"], "write it as key=value"),
        (["account", "nowhere.yaml"], "no such file"),
        (["sweep", "experiments/quickstart.yaml"], "unknown key"),
    ],
)
def test_wrong_commands_are_one_clear_line(arguments, said, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_resumed_run_takes_no_file_no_directory_and_no_fewer_rounds(
    file, tmp_path, capsys
) -> None:
    out = str(tmp_path / "run")
    assert main(["run", str(file), "--out", out, "--set", "rounds=2"]) == 0
    for extra in ([str(file)], ["--out", "elsewhere"]):
        assert main(["run", *extra, "--resume", out, "--set", "rounds=3"]) == 2
        assert "give neither FILE nor --out" in capsys.readouterr().err
    assert main(["run", "--resume", out, "--set", "rounds=1"]) == 2
    assert "rounds is 1, but" in capsys.readouterr().err


def test_markup_in_a_users_words_is_only_text(file, tmp_path, capsys) -> None:
    out = tmp_path / "x[bold]y"
    question = 'question="[/x] is it?"'
    assert main(["run", str(file), "--out", str(out), "--set", question, "--set", "rounds=1"]) == 0
    said = capsys.readouterr().out
    assert "[/x] is it?" in said and "x[bold]y" in said


def test_the_live_bar_fits_a_terminal_of_eighty_columns() -> None:
    import io

    from rich.console import Console

    from codex_ray.federation.state import RoundResult
    from codex_ray.records.console import Progressing

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    progress = Progressing(console, done=0, rounds=30)
    result = RoundResult(
        round=8, attempts=1, cohort=10, survivors=9, dropped={}, aborted=None, masks_recovered=0,
        bytes_up={"total": 0, "largest": 0}, seconds={}, epsilon={"record": 2.951},
        metrics={"accuracy": 0.9423, "auc": 0.99}, debug={},
    )  # fmt: skip
    with progress.shown():
        progress.ready()
        progress.round(result)
    last = next(line for line in reversed(screen.getvalue().splitlines()) if "9/30" in line)
    for part in ("round", "9/30", "acc 0.942", "eps 2.95", "9/10", "clients/s", ":"):
        assert part in last, last
    assert "…" not in last


def test_no_claim_is_not_an_epsilon_of_zero(file, tmp_path) -> None:
    from codex_ray import RunResult

    plain = "trainer={kind: sgd, learning_rate: 0.1}"
    sets = ["--set", plain, "--set", "budget.epsilon=null", "--set", "rounds=1"]
    assert main(["run", str(file), "--out", str(tmp_path / "run"), *sets]) == 0
    assert RunResult.read(tmp_path / "run").epsilon == float("inf")


def test_broken_yaml_names_its_line(tmp_path, capsys) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("rounds: 3\ndata: [1, 2\n")
    assert main(["run", str(path)]) == 2
    assert "line 3: not valid YAML" in capsys.readouterr().err


def test_an_output_directory_that_holds_another_run_is_refused(file, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out), "--set", "rounds=1"]) == 0
    capsys.readouterr()
    assert main(["run", str(file), "--out", str(out)]) == 2
    assert "holds another run" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    assert main(["run", str(file), "--out", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_named(file, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out), "--set", "rounds=1"]) == 0
    for checkpoint in (out / "checkpoint").glob("round-*"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    capsys.readouterr()
    assert main(["run", "--resume", str(out), "--set", "rounds=2"]) == 2
    assert "is no readable checkpoint" in capsys.readouterr().err


def test_a_run_goes_on_from_its_copies(file, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(file), "--out", "a", "--checkpoints", "copies"]) == 0
    assert f"checkpoints: {tmp_path / 'copies'}" in Path("a/config.yaml").read_text()
    shutil.rmtree("a")
    assert main(["run", "--resume", "copies", "--out", "b", "--set", "rounds=4"]) == 0
    assert json.loads(Path("b/result.json").read_text())["rounds"] == 4
    capsys.readouterr()
    assert main(["run", str(file), "--out", "c", "--checkpoints", "s3://k:hunter2@b/x"]) == 2
    error = capsys.readouterr().err
    assert "by the environment" in error and "hunter2" not in error


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(file, tmp_path) -> None:
    """A real interrupt of a real process, as soon as its second round is in the journal."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "codex_ray.cli", "run", str(file), "--out", str(out)]
    # Whoever was started in the background ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--set", "rounds=100000", "--set", "budget.epsilon=1e9"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    journal = out / "rounds.jsonl"
    while process.poll() is None and (
        not journal.exists() or journal.read_bytes().count(b"\n") < 2
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"codex-ray run --resume {out}" in error and "Traceback" not in error
    done = json.loads(journal.read_text().splitlines()[-1])["round"] + 1
    assert main(["run", "--resume", str(out), "--set", f"rounds={done + 2}"]) == 0
    resumed = json.loads((out / "result.json").read_text())
    whole = tmp_path / "whole"
    budget = ["--set", "budget.epsilon=1e9"]
    assert (
        main(["run", str(file), "--out", str(whole), "--set", f"rounds={done + 2}", *budget]) == 0
    )
    assert (
        resumed["model_sha256"] == json.loads((whole / "result.json").read_text())["model_sha256"]
    )


def test_account_prints_the_cost_of_every_round_and_where_the_budget_stops(file, capsys) -> None:
    from codex_ray.accounting import costs

    assert main(["account", str(file), "--set", "rounds=4", "--set", "budget.epsilon=5"]) == 0
    said = capsys.readouterr().out
    experiment = experiment_from(
        yaml.safe_load(file.read_text()) | {"rounds": 4, "budget": {"epsilon": 5.0}}
    )
    found = list(costs(experiment))
    assert [cost.rounds for cost in found] == [1, 2, 3, 4]
    assert all(f"{cost.epsilon:.4f}" in said for cost in found)
    assert [c.affordable for c in found] == [c.epsilon <= 5 for c in found]
    assert "the run stops" in said and "a record pays" in said


def test_account_says_when_there_is_nothing_to_account(file, capsys) -> None:
    sgd = ["--set", "trainer={kind: sgd, learning_rate: 0.1}"]
    assert main(["account", str(file), *sgd]) == 2
    assert "nothing adds noise" in capsys.readouterr().err
    assert main(["account", str(file), *sgd, "--set", "budget.epsilon=null"]) == 0
    assert "no privacy claim" in capsys.readouterr().out


def test_the_schema_accepts_the_experiments_and_refuses_a_wrong_one(tmp_path) -> None:
    import jsonschema

    out = tmp_path / "schema.json"
    assert main(["schema", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written == json.loads(json.dumps(schema()))
    for name in ("quickstart", "cross_device", "real_data/mnist"):
        jsonschema.validate(yaml.safe_load(Path(f"experiments/{name}.yaml").read_text()), written)
    named = yaml.safe_load(Path("experiments/quickstart.yaml").read_text())
    jsonschema.validate(named | {"model": "my_module:build", "data": "my_module:data"}, written)
    for wrong in ({"rounds": 0}, named | {"model": {"kind": "linaer"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, written)


def test_every_field_of_the_schema_says_what_it_is() -> None:
    for name, component in schema()["$defs"].items():
        for field, about in component.get("properties", {}).items():
            assert field == "kind" or about.get("description"), f"{name}.{field} says nothing"


def test_a_place_that_cannot_be_written_is_named(capsys) -> None:
    assert main(["schema", "--out", "/nonexistent/x.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_version_and_help(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"codex-ray {__version__}\n"
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "--resume DIR" in capsys.readouterr().out
