"""The check of a cluster finds what is wrong, says what to do, and ends with 1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_head import RealHead, asked, closed_head

from codex_ray.api import plan
from codex_ray.cluster.check import ClusterCheck, _of_nodes, check_cluster
from codex_ray.cluster.check_table import finding_table, foreseen_table, node_table
from codex_ray.cluster.foreseen import PROCESS, Foreseen
from codex_ray.cluster.node_facts import NodeFacts, facts_here

GIB = 2**30


@pytest.fixture(scope="module")
def node() -> NodeFacts:
    """A node like this one, of eight CPUs."""
    facts = facts_here() | {"problems": (), "shared": 10.0 * GIB}
    return NodeFacts("10.0.0.1", cpus=8, gpus=0, memory=32 * GIB, store=8 * GIB, **facts)


def other(node: NodeFacts, name: str, version: str) -> NodeFacts:
    """The same node with another version of something."""
    return replace(node, versions=tuple({**dict(node.versions), name: version}.items()))


def says(node: NodeFacts) -> list[str]:
    return [finding.says for finding in _of_nodes([node]) if finding.wrong]


def test_a_node_like_this_one_is_in_order(node: NodeFacts) -> None:
    assert says(node) == []
    assert "1 node is in order" in _of_nodes([node])[0].says


def test_what_is_wrong_with_a_node_is_named_with_its_remedy(node: NodeFacts) -> None:
    for worse, words in (
        (other(node, "torch", "1.0"), "has torch 1.0, and here it is"),
        (other(node, "python", "3.9.1"), "has python 3.9.1"),
        (other(node, "codex-ray", "none"), "has codex-ray none"),
        (replace(node, gpus=2), "tells Ray of 2 GPUs, and torch sees 0"),
        (replace(node, shared=1.0 * GIB), "raise --shm-size"),
        (replace(node, problems=("is open",)), "is open"),
    ):
        assert len(found := says(worse)) == 1 and words in found[0], found


def test_several_kinds_of_cpu_are_said_but_not_wrong(node: NodeFacts) -> None:
    found = _of_nodes([node, replace(node, processor="another")])
    assert ["several kinds of CPU" in one.says for one in found] == [True]
    assert not found[0].wrong


def placed(config: dict[str, Any], hosts: int, *nodes: NodeFacts) -> Foreseen:
    return Foreseen.of(plan(config, {"cluster.hosts": hosts}), nodes)


def test_what_an_experiment_takes(devices: dict[str, Any], node: NodeFacts) -> None:
    found = placed(devices, 4, node)
    assert (found.hosts, found.cpus, found.gpus) == (4, 1.0, 0.0)
    assert found.room == (("10.0.0.1", 8),)
    assert found.clients == 5  # a cohort of 20 among 4
    parameters = (8 * 8 + 1) * 10
    assert found.broadcast == 4 * parameters
    assert found.host_bytes == PROCESS + parameters * (4 + 5 * 4)
    assert found.problems == ()


def test_hosts_that_do_not_fit_are_told_before_they_would_wait_for_ever(
    devices: dict[str, Any], node: NodeFacts
) -> None:
    one = replace(node, cpus=1)
    # Two nodes of one CPU each: .66 is what there is for each of three hosts, and one fits on each.
    found = placed(devices, 3, one, replace(one, address="10.0.0.2"))
    assert (found.cpus, dict(found.room)) == (0.5, {"10.0.0.1": 2, "10.0.0.2": 2})
    assert found.problems == ()
    found = placed(devices, 20, replace(node, cpus=0.1))
    assert found.problems == ("20 hosts do not fit: lower cluster.hosts, or add nodes",)
    head = replace(node, cpus=0)
    assert "no node has a CPU" in placed(devices, 2, head).problems[0]
    assert placed(devices, 2, head, node).room == (("10.0.0.1", 0), ("10.0.0.1", 8))
    assert "lower cluster.hosts" in placed(devices, 8, replace(node, memory=GIB)).problems[0]
    assert "--object-store-memory" in placed(devices, 1, replace(node, store=1000)).problems[0]
    on_gpu = devices | {"plan": {"device": "cuda"}}
    assert "no node has one: set plan.device" in placed(on_gpu, 1, node).problems[0]
    shared = placed(on_gpu, 2, replace(node, gpus=1))
    assert (shared.gpus, dict(shared.room)) == (0.5, {"10.0.0.1": 2})  # eight by its CPUs
    # Two fit on each GPU, so the node of one CPU has to carry two, and not one with a whole CPU.
    both = placed(on_gpu, 4, replace(one, gpus=1), replace(node, gpus=1, address="10.0.0.2"))
    assert (both.cpus, both.gpus, both.problems) == (0.5, 0.5, ())
    assert "cluster.hosts is 0" in placed(devices, 0, node).problems[0]


def test_the_check_of_nobodys_address_fails_with_words() -> None:
    check = check_cluster("127.0.0.1:1")
    assert not check.ok and check.nodes == ()
    assert "nobody answers there" in check.findings[-1].says


def test_the_tables_show_what_was_found(devices: dict[str, Any], node: NodeFacts) -> None:
    from rich.console import Console

    foreseen = placed(devices, 4, node)
    check = ClusterCheck((node,), foreseen, tuple(_of_nodes([other(node, "ray", "[2.9]")])))
    console = Console(record=True, width=200, markup=False)
    for table in (node_table(check), foreseen_table(foreseen), finding_table(check)):
        console.print(table)
    text = console.export_text()
    for words in ("10.0.0.1", "32.0 GiB", "about 5 clients", "wrong", "has ray [2.9]"):
        assert words in text
    assert json.loads(json.dumps(check.to_json()))["ok"] is False


@pytest.fixture(scope="module")
def head() -> Iterator[RealHead]:
    """A closed head for the file."""
    with closed_head(dashboard=False) as one:
        yield one


def command(head: RealHead, environment: dict[str, str], *words: str) -> tuple[int, str]:
    """The exit status and the words of `codex-ray cluster check` of that head."""
    said = ["cluster", "check", "--address", head.address, *words]
    return asked(said, environment=environment, folder=Path.cwd())


@pytest.mark.slow
def test_a_real_closed_head_is_in_order_and_says_where_hosts_go(head: RealHead) -> None:
    status, words = command(
        head,
        head.environment(),
        "experiments/quickstart.yaml",
        "--set",
        "cluster.hosts=2",
        "--json",
    )
    check = json.loads(words[words.index("{\n") :])
    assert (status, check["ok"]) == (0, True), words
    assert check["nodes"][0]["versions"] == dict(facts_here()["versions"])
    assert check["foreseen"]["room"] == {"127.0.0.1": 2}
    assert [finding["about"] for finding in check["findings"]] == [
        "TLS",
        "door",
        "nodes",
        "experiment",
    ]


@pytest.mark.slow
def test_a_wrong_token_ends_with_1_and_what_to_do(head: RealHead) -> None:
    status, words = command(head, head.environment() | {"RAY_AUTH_TOKEN": "0" * 64})
    assert status == 1
    assert "does not take our token" in " ".join(words.split())
