"""The sweep: a real grid through Ray Tune, and one line for everything that is wrong before it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

import codex_ray
from codex_ray.cli import main
from codex_ray.cluster.sweep import NOT_ACCOUNTED
from codex_ray.errors import ConfigError
from codex_ray.records.frontier import Point, frontier_of


@pytest.fixture
def file(devices: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(devices))
    path = tmp_path / "sweep.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "base": "base.yaml",
                "set": {"federation.protocol.kind": "ideal", "rounds": 2},
                "grid": {
                    "federation.mechanism.noise_multiplier": [0.5, 4.0],
                    "federation.mechanism.clip_norm": [0.5],
                },
            }
        )
    )
    return path


@pytest.mark.usefixtures("ray_local")
def test_a_sweep_ends_with_a_table_a_csv_and_a_picture(file, devices, tmp_path, capsys) -> None:
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "NOT" in said and "accounted" in said and "trial 2/2" in said
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [row["federation.mechanism.noise_multiplier"] for row in rows] == ["0.5", "4.0"]
    assert {row["selection_accounted"] for row in rows} == {"no"}
    assert float(rows[0]["epsilon"]) > float(rows[1]["epsilon"]) > 0
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    alone = codex_ray.run(
        devices,
        {
            "federation.protocol.kind": "ideal",
            "rounds": 2,
            "seed": 0,
            "federation.mechanism.noise_multiplier": 4.0,
        },
        out=tmp_path / "alone",
    )
    assert float(rows[1]["accuracy"]) == alone.metrics["accuracy"]
    assert float(rows[1]["epsilon"]) == alone.epsilon


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": {"federation.mechanism.noise": [1]}}, "federation.mechanism.noise: unknown key"),
        ({"grid": {"rounds": []}}, "a key has no values"),
        ({"grid": {}}, "grid"),
        ({"grid": {"federation.mechanism.clip_norm": [1, -1]}}, "clip_norm: -1 cannot be used"),
        ({"base": "nowhere.yaml"}, "no such file"),
        ({"grid": {"federation.sampler.rate": [0.5, 0.01]}}, "federation"),
        ({"gird": 1}, "did you mean 'grid'?"),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_trial(change, said, file, tmp_path) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    with pytest.raises(ConfigError) as error:
        codex_ray.sweep(file, out=tmp_path / "out")
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_frontier_is_what_no_point_beats() -> None:
    points = [
        Point.of(values={"z": z}, epsilon=e, scores=s)
        for z, e, s in [(4, 1.0, [0.5]), (3, 2.0, [0.4]), (2, 3.0, [0.7, 0.9]), (1, 9.0, [0.8])]
    ]
    assert [p.values["z"] for p in frontier_of(points)] == [4, 2]
    assert points[2].score == pytest.approx(0.8) and points[2].error == pytest.approx(0.1)
    assert points[0].error is None
    assert "every" in NOT_ACCOUNTED or "NOT accounted" in NOT_ACCOUNTED
