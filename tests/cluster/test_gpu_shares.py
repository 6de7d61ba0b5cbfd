"""Hosts share the GPUs of a cluster by their plan: Ray hands the shares out, and needs none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from codex_ray.cluster.crew import Crew, gpu_part, share_of  # first: it sets what ray reads

# isort: split

import ray
import torch

from codex_ray.assembly import assemble
from codex_ray.cluster.gpu_scout import work_a_round
from codex_ray.cluster.transport import RayTransport
from codex_ray.config import experiment_from
from codex_ray.errors import ClusterError
from codex_ray.learning.device_memory import Footprint, keep_within


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
    ("nodes", "hosts", "share"),
    [
        ([1], 3, 0.33),
        ([2], 2, 1.0),
        ([8], 2, 1.0),
        ([0], 2, 0.0),
        ([], 2, 0.0),
        ([1], 4, 0.25),
        ([1, 2], 4, 0.66),  # .75 is what there is for each, and one would have no place
        ([1, 1], 3, 0.5),
        ([8, 1, 0], 9, 1.0),
        ([1], 101, 0.0),
    ],
)
def test_a_share_is_the_largest_that_all_hosts_find_a_place_with(
    nodes: list[float], hosts: int, share: float
) -> None:
    assert share_of(nodes, hosts) == pytest.approx(share)


GIB = 2**30
SEEN = Footprint(context=GIB // 2, held=3 * GIB, total=16 * GIB)


def test_a_share_leaves_room_where_gpus_are() -> None:
    assert share_of([1, 8], 4, room=[2, 2]) == 0.5
    assert share_of([8, 0.5], 3, room=[0, 4]) == pytest.approx(0.16)
    assert share_of([8], 3, room=[2]) == 0.0


def test_a_part_holds_the_context_and_what_was_held_with_some_to_spare() -> None:
    assert SEEN.part == pytest.approx(0.27)  # (.5 + 1.25 x 3) / 16 is .2656
    assert SEEN.limit(SEEN.part) == pytest.approx(0.27 - 0.5 / 16)
    assert 16 * SEEN.limit(SEEN.part) > 3.75  # what tensors may take is what they took, and more


def test_a_host_gets_what_it_needs_of_a_gpu_and_no_more_than_fit_are_started() -> None:
    assert gpu_part(SEEN, [1.0], hosts=3) == SEEN.part
    assert gpu_part(SEEN, [1.0, 0.0, 2.0], hosts=9) == SEEN.part
    with pytest.raises(ClusterError, match=r"needs 3\.5 GiB of a GPU's 16\.0, so 9 of 10 fit on 3"):
        gpu_part(SEEN, [1.0, 2.0], hosts=10)
    large = Footprint(context=GIB, held=15 * GIB, total=16 * GIB)
    with pytest.raises(ClusterError, match=r"so 0 of 1 fit on 1 GPUs: lower plan\.clients"):
        gpu_part(large, [1.0], hosts=1)


def test_a_footprint_is_read_from_cuda_and_kept_to(monkeypatch: Any) -> None:
    """Another process is not there, so what is gone and is not the allocator's is the context."""
    kept: list[float] = []
    for name, answer in {
        "synchronize": None,
        "mem_get_info": (11 * GIB, 16 * GIB),
        "memory_reserved": 4 * GIB,
        "max_memory_reserved": 6 * GIB,
        "is_available": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", kept.append)
    assert Footprint.measured() == Footprint(context=GIB, held=6 * GIB, total=16 * GIB)
    keep_within(0.25)
    keep_within(1.5)
    assert kept == [0.25, 1.0]


def test_a_scout_does_what_one_host_does_in_a_round(devices: dict[str, Any]) -> None:
    plan = {"kernel": "vectorised", "clients": 2, "device": "cpu"}
    experiment = experiment_from(devices | {"plan": plan, "cluster": {"hosts": 3}})
    assembled = assemble(experiment)
    cohort = experiment.federation.sampler.expected(assembled.dataset.population)
    assert work_a_round(assembled) == max(2, math.ceil(cohort / 3))


@pytest.mark.gpu
def test_a_real_footprint_is_more_than_its_tensors() -> None:
    held = torch.ones(2**20, device="cuda")
    found = Footprint.measured()
    assert found.total > found.context > 0 and found.held >= held.numel() * 4


@pytest.mark.slow
def test_hosts_share_a_gpu(one_gpu: None, devices: dict[str, Any], monkeypatch: Any) -> None:
    seen = Footprint(context=GIB, held=3 * GIB, total=16 * GIB)
    monkeypatch.setattr("codex_ray.cluster.crew.footprint_of", lambda *_: seen)
    crew = Crew.start(_experiment(devices, "cuda"), [])
    RayTransport(crew.hosts, population=9, deadline=120).wait()
    assert crew.berth.limit == pytest.approx(seen.part - 1 / 16)
    assert ray.available_resources().get("GPU", 0.0) == pytest.approx(1 - 3 * seen.part)
    crew.close()


@pytest.mark.slow
def test_a_scout_whose_work_fails_says_so(one_gpu: None, devices: dict[str, Any]) -> None:
    """This machine has no GPU but Ray believes it has: the work fails there, and not in a round."""
    if torch.cuda.is_available():
        pytest.skip("it does not fail where there is a GPU")
    with pytest.raises(ClusterError, match=r"a host cannot work on a whole GPU: .*CUDA"):
        Crew.start(_experiment(devices, "cuda"), [])


def test_a_plan_for_a_gpu_needs_one(devices: dict[str, Any], monkeypatch: Any) -> None:
    def having(**resources: float) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources}])

    monkeypatch.setattr("codex_ray.cluster.crew.get_current_placement_group", lambda: None)
    having(CPU=2.0)
    with pytest.raises(ClusterError, match=r"plan\.device is cuda, but the cluster has no GPU"):
        Crew.start(_experiment(devices, "cuda"), [])
    having(GPU=2.0)
    with pytest.raises(ClusterError, match="has no CPU"):
        Crew.start(_experiment(devices, "cpu"), [])
