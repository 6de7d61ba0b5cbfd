"""TensorBoard holds the scalars that were promised, and what is outside the guarantee says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import codex_ray


def scalars(directory: Path) -> tuple[EventAccumulator, set[str]]:
    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return events, set(events.Tags()["scalars"])


def test_a_run_leaves_its_scalars_and_its_configuration(
    silos: dict[str, Any], tmp_path: Path
) -> None:
    result = codex_ray.run(silos, out=tmp_path / "run")
    events, tags = scalars(tmp_path / "run")
    promised = {
        "metrics/accuracy", "metrics/auc", "metrics/loss", "privacy/epsilon_record",
        "clients/cohort", "clients/survivors", "clients/dropped", "clients/masks_recovered",
        "seconds/train", "seconds/sum", "seconds/release", "seconds/evaluate", "bytes/up_total",
    }  # fmt: skip
    assert promised <= tags
    assert not any("debug" in tag for tag in tags)
    accuracy = [e.value for e in events.Scalars("metrics/accuracy")]
    assert len(accuracy) == 3 and abs(accuracy[-1] - result.metrics["accuracy"]) < 1e-6
    assert any("config" in tag for tag in events.Tags()["tensors"])


def test_a_round_is_one_event(silos: dict[str, Any], tmp_path: Path) -> None:
    codex_ray.run(silos, out=tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").glob("events*")
    tags = [
        {value.tag for value in event.summary.value} for event in EventFileLoader(str(file)).Load()
    ]
    assert sum("clients/cohort" in found for found in tags) == 3
    assert all("seconds/train" in found for found in tags if "clients/cohort" in found)


def test_debug_scalars_are_marked(silos: dict[str, Any], tmp_path: Path) -> None:
    codex_ray.run(silos, {"debug": True}, out=tmp_path / "run")
    debug = {tag for tag in scalars(tmp_path / "run")[1] if "norm" in tag or "clipped" in tag}
    assert debug and all(
        tag.startswith("debug/") and "outside the guarantee" in tag for tag in debug
    )
