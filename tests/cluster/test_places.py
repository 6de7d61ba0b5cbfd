"""The places of hosts: one bundle of a placement group for each, all reserved together or none."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group_table

from codex_ray.cluster.crew import Crew
from codex_ray.config import experiment_from

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.slow]


def crew_of(devices: dict[str, Any], **cluster: Any) -> Any:
    """The hosts of an experiment, each of which is given a whole CPU of the two."""
    return closing(Crew.start(experiment_from(devices | {"cluster": cluster}), []))


def free(name: str = "CPU") -> float:
    return float(ray.available_resources().get(name, 0.0))


def places(crew: Crew) -> list[str]:
    """What Ray calls the CPU of each place."""
    assert crew.group is not None
    return [f"CPU_group_{at}_{crew.group.id.hex()}" for at in range(len(crew.group.bundle_specs))]


def built(crew: Crew, *, timeout: float = 90) -> None:
    ray.get([host.ready.remote() for host in crew.hosts], timeout=timeout)


def test_each_host_is_in_the_place_that_is_reserved_for_it(devices: dict[str, Any]) -> None:
    with crew_of(devices, hosts=2) as crew:
        assert crew.group.bundle_specs == [{"CPU": 1.0}, {"CPU": 1.0}]
        assert placement_group_table(crew.group)["strategy"] == "SPREAD"
        built(crew)
        have = ray.cluster_resources()
        assert [have[place] for place in places(crew)] == [1.0, 1.0]
        assert [free(place) for place in places(crew)] == [0.0, 0.0]  # a host in each
        assert free() == 0.0


@pytest.mark.slow
def test_a_run_never_holds_half_of_its_places_while_it_waits(devices: dict[str, Any]) -> None:
    """The first run leaves one CPU free: the second needs two, and takes both or none."""
    with crew_of(devices, hosts=2, hosts_at_least=1) as first:
        ray.get(first.hosts[0].ready.remote(), timeout=90)
        ray.kill(first.hosts[1], no_restart=True)  # a host without a reserved place
        with crew_of(devices, hosts=2) as second:
            assert not ray.wait([second.group.ready()], timeout=3)[0]
            assert placement_group_table(second.group)["state"] == "PENDING"
            assert free() == 1.0
            first.close()
            built(second)
            assert [free(place) for place in places(second)] == [0.0, 0.0]


@pytest.mark.slow
def test_a_host_that_is_replaced_gets_the_place_of_the_one_before(devices: dict[str, Any]) -> None:
    with crew_of(devices, hosts=2) as crew:
        built(crew)
        ray.kill(crew.hosts[1], no_restart=True)
        crew.hosts[1] = crew.another(1)
        built(crew)
        assert [free(place) for place in places(crew)] == [0.0, 0.0]
        assert free() == 0.0
    for _ in range(600):  # Ray takes places back in its own time
        if free() == 2.0:
            return
        time.sleep(0.1)
    raise AssertionError(f"{free()} of 2 CPUs are free")
