"""The plan is settled once, before round 0, written down, and kept to by every host and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import ConfigError
from codex_ray.learning.plans import REFERENCE, Plan
from codex_ray.learning.trainers import LocalTraining
from codex_ray.learning.vectorised import VectorisedTraining


def _model(directory: Path) -> torch.Tensor:
    found = load_file(directory / "model.safetensors")
    return torch.cat([found[name].flatten() for name in sorted(found)])


def test_what_is_open_is_settled_and_written_down(devices: dict[str, Any], tmp_path: Path) -> None:
    codex_ray.run(devices, out=tmp_path / "run")
    plan = load_yaml(tmp_path / "run" / "config.yaml")["plan"]
    assert plan["kernel"] == "vectorised" and plan["clients"] >= 1 and plan["device"] == "cpu"
    again = codex_ray.run(tmp_path / "run" / "config.yaml", out=tmp_path / "again")
    assert again.model_sha256 == codex_ray.run(devices, out=tmp_path / "third").model_sha256


@pytest.mark.parametrize("which", ["devices", "silos"])
def test_plans_differ_in_the_last_bits_alone(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = request.getfixturevalue(which)
    plans: list[Any] = [
        "reference",
        {"kernel": "vectorised", "clients": 2},
        {"kernel": "vectorised", "clients": 16},
    ]
    models = []
    for number, plan in enumerate(plans):
        codex_ray.run(config | {"plan": plan}, out=tmp_path / str(number))
        models.append(_model(tmp_path / str(number)))
    # An update that rounds the other way moves by one step of the fixed-point grid.
    assert torch.allclose(models[0], models[1], atol=1e-3)
    assert torch.equal(models[1], models[2])


@pytest.mark.parametrize("which", ["devices", "silos"])
def test_a_host_trains_by_the_plan(which: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(which)
    open_plan = assemble(experiment_from(config))
    assert isinstance(open_plan.training(), LocalTraining)
    settled = open_plan.settled(gpus=0)
    assert isinstance(settled.training(), VectorisedTraining)
    assert settled.settled(gpus=0) == settled


def test_a_trainer_without_a_vectorised_kernel_keeps_the_reference(
    shared: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert assemble(experiment_from(shared)).settled(gpus=0).experiment.plan.plan == REFERENCE
    assert not caplog.records


@pytest.mark.parametrize("rounds", [1, 20])
def test_the_number_of_hosts_does_not_choose_the_plan(devices: dict[str, Any], rounds: int) -> None:
    """Nor its lanes: a lone one has other bits than one among others."""
    plans = []
    for hosts in (0, 1, 10):
        run = devices | {"rounds": rounds, "cluster": {"hosts": hosts}}
        plans.append(assemble(experiment_from(run)).settled(gpus=0).experiment.plan.plan)
    assert plans[0].kernel == "vectorised" and plans[0].clients > 1
    assert plans == plans[:1] * 3


def test_a_run_from_before_there_were_plans_goes_on_by_the_reference(
    devices: dict[str, Any], tmp_path: Path
) -> None:
    codex_ray.run(devices | {"plan": "reference"}, out=tmp_path / "run")
    whole = codex_ray.run(devices | {"plan": "reference", "rounds": 4}, out=tmp_path / "whole")
    config = tmp_path / "run" / "config.yaml"
    kept = [it for it in config.read_text().split("\n") if not it.startswith("plan")]
    at = kept.index("  kernel: reference")
    config.write_text("\n".join(kept[:at] + kept[at + 4 :]))
    assert "plan" not in load_yaml(config)
    resumed = codex_ray.run(None, {"rounds": 4}, resume=tmp_path / "run")
    assert resumed.model_sha256 == whole.model_sha256


def test_a_resumed_run_keeps_to_the_plan_it_began_with(
    devices: dict[str, Any], tmp_path: Path
) -> None:
    codex_ray.run(devices, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"plan\.kernel: a resumed run keeps"):
        codex_ray.run(None, {"rounds": 4, "plan.kernel": "reference"}, resume=tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("kernel: vectorised", "kernel: compiled"))
    with pytest.raises(ConfigError, match="the run began with kernel='vectorised'"):
        codex_ray.run(None, {"rounds": 4}, resume=tmp_path / "run")


def test_short_forms() -> None:
    def plan(value: Any) -> Any:
        base = {"rounds": 1, "data": {"kind": "synthetic_images"}, "model": {"kind": "linear"}}
        trainer = {"kind": "sgd", "learning_rate": 0.1}
        return experiment_from(base | {"trainer": trainer, "plan": value}).plan

    assert plan("auto") == plan({})
    assert plan({"kernel": "vectorised", "precision": "bf16"}).precision == "bfloat16"
    settled = plan({"kernel": "vectorised", "clients": 4, "device": "cpu"})
    assert settled.plan == Plan(kernel="vectorised", clients=4)
    with pytest.raises(ConfigError, match=r"plan\.clients is 4, but plan\.kernel is auto"):
        plan({"clients": 4})
    with pytest.raises(ConfigError, match=r"plan\.clients"):
        plan({"kernel": "compiled", "clients": 0})
    with pytest.raises(ConfigError, match="'gpu' is no device of torch"):
        plan({"device": "gpu"})
    with pytest.raises(ConfigError, match="trains one client at a time"):
        plan({"kernel": "reference", "precision": "bf16"})


def test_a_gpu_that_is_not_there_is_refused(devices: dict[str, Any]) -> None:
    made = assemble(experiment_from(devices | {"plan": {"device": "cuda"}}))
    with pytest.raises(ConfigError, match="there is no GPU"):
        made.settled(gpus=0)
