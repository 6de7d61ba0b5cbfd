"""The same model to the bit on any number of hosts and nodes: a real cluster, on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
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
    codex_ray.run(silos, out=tmp_path / "local")
    local = RunResult.read(tmp_path / "local")
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


DRIVER = Path(__file__).with_name("who_trained.py")


def told(
    config: dict[str, Any],
    folder: Path,
    address: str,
    *,
    wait: int = -1,
    more: Callable[[], None] | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """What a driver tells of its rounds, and the hash of its model.

    Args:
        config: of its experiment.
        folder: for files.
        address: of its cluster.
        wait: the round after which `more` is called while it waits.
        more: what happens to the cluster then.
    """
    file = folder / "experiment.yaml"
    file.write_text(to_yaml(experiment_from(config)))
    command = [sys.executable, str(DRIVER), str(file), address, str(wait)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    lines: list[Any] = []
    with subprocess.Popen(command, **pipes) as driver:
        assert driver.stdin is not None and driver.stdout is not None
        for line in driver.stdout:
            lines.append(json.loads(line))
            if lines[-1] == "more":
                assert more is not None
                more()
                driver.stdin.write("\n")
                driver.stdin.flush()
    assert driver.returncode == 0
    return [line for line in lines if "round" in line], lines[-1]["model"]


@pytest.mark.slow
def test_hosts_on_a_node_that_joins_are_used_from_the_next_round(
    silos: dict[str, Any], tmp_path: Path
) -> None:
    """Two hosts have no place, which an autoscaler would see; then each gets a node of its own."""
    silos |= {"rounds": 4, "plan": "reference", "budget": {}}
    local = codex_ray.run(silos, out=tmp_path / "local")
    silos["cluster"] = {"hosts": 4, "hosts_at_least": 2}
    with loopback(1, cpus=2) as cluster:
        cluster._cpus = 1  # what is added later is smaller

        def two_more() -> None:
            cluster.add()
            cluster.add()

        rounds, model = told(silos, tmp_path, cluster.address, wait=1, more=two_more)
    assert [sorted(one["raylets"]) for one in rounds] == [["0", "1"]] * 2 + [list("0123")] * 2
    assert [len(set(one["raylets"].values())) for one in rounds] == [1, 1, 3, 3]
    assert [one["attempts"] for one in rounds] == [1] * 4
    assert model == local.model_sha256
    assert cluster.left == ()


@pytest.mark.slow
def test_the_model_is_the_same_on_nodes_of_different_sizes(
    silos: dict[str, Any], tmp_path: Path
) -> None:
    """Of four hosts one is on the node with one CPU, and three on the one with three."""
    silos |= {"plan": "reference", "budget": {}, "cluster": {"hosts": 4}}
    local = codex_ray.run(silos | {"cluster": {}}, out=tmp_path / "local")
    with loopback(1, cpus=1) as cluster:
        cluster._cpus = 3
        cluster.add()
        rounds, model = told(silos, tmp_path, cluster.address)
    for one in rounds:
        assert sorted(Counter(one["raylets"].values()).values()) == [1, 3]
    assert model == local.model_sha256
    assert cluster.left == ()
