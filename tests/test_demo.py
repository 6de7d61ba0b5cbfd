"""The whole way in one file: raw records in, a promoted model and its endpoint out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import codex_ray
from codex_ray.bench.heart_disease_twin import write_twin
from codex_ray.bench.small_runs import SERVED
from codex_ray.cli import main
from codex_ray.cli.pipeline import Described, _promote, read_description
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys, read_signing_key
from codex_ray.registry import Registry
from codex_ray.serving.from_registry import Source

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "experiments" / "heart_disease.yaml"
QUICK = ("cluster.hosts=0", "federation.mechanism.noise_multiplier=8.2", "budget.epsilon=null")
"""In this process, and with noise that nobody has to look for."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    monkeypatch.setenv("CODEX_RAY_REGISTRY", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(place: Path, *settings: str) -> list[str]:
    said = [word for one in (*QUICK, *settings) for word in ("--set", one)]
    return ["pipeline", str(FILE), "--set", f"data.path={place / 'raw'}", *said]


def test_one_file_goes_from_raw_records_to_a_promoted_model(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twin(place / "raw")
    make_keys(place / "keys")
    assert main([*words(place), "--out", "way"]) == 0
    said = capsys.readouterr().out
    steps = [line for line in said.splitlines() if line.startswith("$ codex-ray")]
    assert [line.split()[2] for line in steps] == ["data", "run", "models"]
    assert said.rstrip().splitlines()[-1].startswith("next: codex-ray serve heart_disease")
    key = read_signing_key(place / "keys")
    assert key is not None
    registry = Registry.open(place / "models", trusted=[key.public])
    version = registry.current("heart_disease")
    assert version is not None and version.label == "heart_disease@1"
    served = registry.load("heart_disease")
    assert served.certificate is not None and served.data_card is not None and not served.unsafe
    assert served.config["data"]["path"] == str(Path("way") / "prepared")
    model = Source(place / "models", (key.public,), "heart_disease").open().load()
    assert "thalach" in model.schema.names and "num" not in model.schema.names
    assert "age" not in model.schema.names  # generalised, and every record is protected


def test_a_file_that_is_taken_or_has_no_key_ends_before_anything_runs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twin(place / "raw")
    assert main([*words(place), "--out", "way"]) == 2
    assert "codex-ray keys init" in capsys.readouterr().err
    assert not (place / "way").exists()
    make_keys(place / "keys")
    (place / "way").mkdir()
    assert main([*words(place), "--out", "way"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words(place, "rounds=0"), "--out", "other"]) == 2
    assert "rounds" in capsys.readouterr().err
    assert not (place / "other").exists()


def test_raw_records_that_cannot_be_used_train_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_twin(place / "raw")
    files[1].write_text(files[1].read_text() + "old,1,2,130,200,0,0,150,0,0,?,?,?,0\n")
    make_keys(place / "keys")
    assert main([*words(place), "--out", "way"]) != 0
    assert "hungarian.data, row 295, column 'age'" in " ".join(capsys.readouterr().err.split())
    assert not (place / "way").exists()  # and so the same command may be given again


def test_what_is_promoted_is_the_runs_own_version(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = make_keys(place / "keys")
    registry = Registry.create(place / "models", key=key)
    codex_ray.run(SERVED | {"rounds": 1}, out=place / "ours")
    theirs = Path(shutil.copytree(place / "ours", place / "theirs"))
    result = json.loads((theirs / "result.json").read_text())
    (theirs / "result.json").write_text(json.dumps(result | {"metrics": {"accuracy": 0.5}}))
    for run in ("ours", "theirs"):  # the second one by somebody else, before we promote
        registry.register(place / run, "heart")
    given: list[str] = []

    def step(_: str, words: list[str]) -> int:
        given.extend(words)
        return 0

    monkeypatch.setattr("codex_ray.cli.pipeline._step", step)
    described = Described(place, place, {}, "heart", "staging", {})
    assert _promote(described, place / "ours", place / "models") == 0
    assert given[:3] == ["models", "promote", "heart@1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"register": None}, "register: is missing"),
        ({"register": {"name": "heart", "stag": "x"}}, "register.stag: is not known"),
        ({"prepare": {}}, "prepare.schema: is missing"),
        ({"data": {"kind": "csv"}}, "data.kind: must be prepared"),
        ({"data": {"kind": "prepared"}}, "data.path: is missing"),
    ],
)
def test_a_description_is_refused_by_the_field_that_is_wrong(
    place: Path, change: dict[str, object], words: str
) -> None:
    whole = {
        "data": {"kind": "prepared", "path": "raw"},
        "prepare": {"schema": "schema.yaml"},
        "register": {"name": "heart"},
        "serve": {},
    }
    (place / "way.yaml").write_text(json.dumps(whole | change))
    with pytest.raises(ConfigError, match=words):
        read_description(place / "way.yaml", {})


def test_the_experiment_is_private_by_default() -> None:
    described = read_description(FILE, {"federation.mechanism.noise_multiplier": 8.0})
    experiment = experiment_from(described.experiment)
    assert experiment.seed is None and experiment.budget.epsilon == 1.0
    assert experiment.federation.protocol.kind == "secagg"
    assert experiment.trainer.kind == "distributed_dp_sgd"
    assert experiment.name == "heart_disease" and experiment.question.endswith("?")


@pytest.mark.slow
def test_the_demo_asks_its_endpoint(place: Path) -> None:
    pytest.importorskip("uvicorn")
    script = [sys.executable, str(ROOT / "experiments" / "heart_disease_demo.py")]
    done = subprocess.run(
        [*script, "--out", str(place / "demo"), "--set", "cluster.hosts=0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "turned away (401)" in done.stdout and "turned away (422)" in done.stdout
    assert "epsilon <= 1" in done.stdout and "crk_... (kept)" in done.stdout
    secret = json.loads((place / "demo" / "keys" / "access.json").read_text())
    assert secret and "a woman of 42" in done.stdout
