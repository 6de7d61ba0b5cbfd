"""Hosts share the GPUs of a cluster by their plan: Ray hands the shares out, and needs none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from codex_ray.cluster.coordinator import share_of, start_hosts  # first: it sets what ray reads

# isort: split

import ray

from codex_ray.cluster.transport import await_ready
from codex_ray.config import experiment_from
from codex_ray.errors import ClusterError


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A Ray that is told of a GPU, which it believes."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    yield
    ray.shutdown()


def _experiment(devices: dict[str, Any], device: str) -> Any:
    plan = {"kernel": "vectorised", "clients": 2, "device": device}
    return experiment_from(devices | {"plan": plan, "cluster": {"hosts": 3}})


@pytest.mark.parametrize(
    ("total", "hosts", "share"), [(1, 3, 0.33), (2, 2, 1.0), (8, 2, 1.0), (0, 2, 0.0), (1, 4, 0.25)]
)
def test_a_share_is_rounded_down(total: float, hosts: int, share: float) -> None:
    assert share_of(total, hosts) == pytest.approx(share)


def test_hosts_share_a_gpu(one_gpu: None, devices: dict[str, Any]) -> None:
    hosts = start_hosts(_experiment(devices, "cuda"), [])
    await_ready(hosts, deadline=120)
    assert ray.available_resources().get("GPU", 0.0) == pytest.approx(0.01)
    for host in hosts:
        ray.kill(host)


def test_a_plan_for_a_gpu_needs_one(devices: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ClusterError, match=r"plan\.device is cuda, but the cluster has no GPU"):
        start_hosts(_experiment(devices, "cuda"), [])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    with pytest.raises(ClusterError, match="has no CPU"):
        start_hosts(_experiment(devices, "cpu"), [])
