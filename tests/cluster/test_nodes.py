"""The same model to the bit on any number of hosts and nodes: a real cluster, on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import codex_ray
from codex_ray.cluster.chaos_cluster import loopback
from codex_ray.config import experiment_from, to_yaml
from codex_ray.records.result import RunResult


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 3])
def test_the_model_is_the_same_on_any_number_of_hosts_and_nodes(
    silos: dict[str, Any], tmp_path: Path, nodes: int
) -> None:
    local = codex_ray.run(silos, out=tmp_path / "local")
    file = tmp_path / "experiment.yaml"
    file.write_text(to_yaml(experiment_from(silos)))
    with loopback(nodes, cpus=4 // nodes) as cluster:
        for hosts in (1, 2, 4):
            out = tmp_path / f"{hosts}"
            there = [f"cluster.hosts={hosts}", f"cluster.address={cluster.address}"]
            words = ["run", str(file), "--out", str(out), "--set", there[0], "--set", there[1]]
            subprocess.run([sys.executable, "-m", "codex_ray.cli", *words], check=True, timeout=300)
            far = RunResult.read(out)
            assert far.model_sha256 == local.model_sha256 and far.privacy == local.privacy
    assert cluster.left == ()
