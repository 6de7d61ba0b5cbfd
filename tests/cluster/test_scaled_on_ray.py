"""Figures of private records on Ray: the model that one process makes, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pooling import EXACT, NOISE, NOISED, SHARED, experiment, write_hospitals

import codex_ray
from codex_ray.cluster.sweep_trial import _check_same
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import RunDirectory

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.slow]


@pytest.mark.parametrize(
    "noised",
    [False, True],
    ids=["exact", "noised"],
)
def test_hosts_scale_by_the_same_figures(noised: bool, tmp_path: Path) -> None:
    files = write_hospitals(tmp_path / "hospitals")
    config = experiment(files, EXACT)
    if noised:
        config = experiment(files, NOISED, trainer=SHARED, mechanism=NOISE)
    here = codex_ray.run(config, out=tmp_path / "here")
    there = codex_ray.run(config | {"cluster": {"hosts": 2}}, out=tmp_path / "there")
    assert there.model_sha256 == here.model_sha256
    assert (there.preparation, there.epsilon) == (here.preparation, here.epsilon)
    figures = [load_yaml(tmp_path / name / "config.yaml")["data"] for name in ("here", "there")]
    assert figures[0] == figures[1]


def test_a_trial_knows_its_run_again_though_that_wrote_down_what_it_found(tmp_path: Path) -> None:
    config = experiment(write_hospitals(tmp_path / "hospitals"), EXACT)
    codex_ray.run(config, out=tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    _check_same(experiment_from(config), directory)
    config["data"]["prepare"] = EXACT | {"by": "moments"}
    with pytest.raises(RunDirectoryError, match="differs in data"):
        _check_same(experiment_from(config), directory)
