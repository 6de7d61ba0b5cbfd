"""A Ray that a process is in already is used if it is the one that was asked for, and closed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from codex_ray.cluster import joined_before
from codex_ray.cluster.joined_before import look_around, noted
from codex_ray.errors import ClusterError

HERE = "127.0.0.1:6379"


@pytest.mark.parametrize("address", ["auto", HERE, "localhost:6379"])
def test_the_cluster_that_was_joined_is_the_one_that_was_asked_for(address: str) -> None:
    with noted(HERE, ["it is open"], own=False):
        assert look_around(address, insecure_local=True) == ["it is open"]
        with pytest.raises(ClusterError, match="it is open"):
            look_around(address, insecure_local=False)


@pytest.mark.parametrize(
    "address", ["local", "127.0.0.1:6380", "192.0.2.1:6379", "ray://127.0.0.1:6379", "there:none"]
)
def test_another_cluster_is_not_put_in_its_place_unsaid(address: str) -> None:
    with (
        noted(HERE, [], own=False),
        pytest.raises(ClusterError, match=rf"{address}, but this process has joined {HERE} alre"),
    ):
        look_around(address, insecure_local=True)


def test_a_ray_of_our_own_is_local() -> None:
    with noted(HERE, [], own=True):
        assert look_around("local", insecure_local=False) == []


def test_what_ray_began_works_for_a_driver_that_has_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = SimpleNamespace(mode=ray.WORKER_MODE)
    monkeypatch.setattr(joined_before.ray_worker, "global_worker", worker)
    assert look_around("192.0.2.1:1", insecure_local=False) == []


def test_a_cluster_joined_as_a_client_is_looked_at_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined_before.ray_client, "is_connected", lambda: True)
    monkeypatch.setattr(joined_before, "check_joining", lambda address, **_: [f"{address} is open"])
    with pytest.raises(ClusterError, match="has joined a cluster as a client"):
        look_around("local", insecure_local=True)
    there = "ray://127.0.0.1:10001"
    assert look_around(there, insecure_local=True) == [f"{there} is open"]
