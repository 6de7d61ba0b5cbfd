"""Whether a cluster is closed, alike on every node, and large enough: looked at before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray

from codex_ray.cluster.doors import ray_at
from codex_ray.cluster.foreseen import Foreseen
from codex_ray.cluster.node_facts import NodeFacts, facts_here
from codex_ray.cluster.preflight import keys_from
from codex_ray.errors import ClusterError, InputError
from codex_ray.experiment import Experiment

MUST_AGREE: Final = ("python", "ray", "torch", "codex-ray", "numpy")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: the node, or what it concerns.
        says: what was found; where it is wrong, with the remedy.
        wrong: whether a run should not begin like this.
    """

    about: str
    says: str
    wrong: bool


@dataclass(frozen=True)
class ClusterCheck:
    """All that was found.

    Attributes:
        nodes: empty when the cluster was not entered.
        foreseen: None when no experiment was given, or the cluster was not entered.
        findings: in the order in which they were looked at.
    """

    nodes: tuple[NodeFacts, ...]
    foreseen: Foreseen | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "ok": self.ok,
            "findings": [vars(finding) for finding in self.findings],
            "nodes": [node.to_json() for node in self.nodes],
            "foreseen": None if self.foreseen is None else self.foreseen.to_json(),
        }


def check_cluster(
    address: str, *, experiment: Experiment | None = None, insecure_local: bool = False
) -> ClusterCheck:
    """What there is to say about the cluster at `address`, and about an experiment on it.

    Args:
        address: as in an experiment's cluster.address.
        experiment: what is to run on it.
        insecure_local: look at an open one from the inside too; it is still called open.
    """
    findings = [_tls()]
    try:
        with ray_at(address, insecure_local=insecure_local) as overlooked:
            findings += [Finding("door", problem, wrong=True) for problem in overlooked]
            if not overlooked:
                findings.append(Finding("door", "demands a token, and takes ours", wrong=False))
            alive = [node for node in ray.nodes() if node["Alive"]]
            nodes = tuple(NodeFacts.asked(node, insecure_local=insecure_local) for node in alive)
    except (ClusterError, InputError) as error:
        return ClusterCheck((), None, (*findings, Finding("door", str(error), wrong=True)))
    findings += _of_nodes(nodes)
    foreseen = None if experiment is None else Foreseen.of(experiment, nodes)
    if foreseen is not None:
        findings += _of_experiment(foreseen)
    return ClusterCheck(nodes, foreseen, tuple(findings))


def _tls() -> Finding:
    files = keys_from(own=True).files
    if files is None:
        words = "not set: on a network, others could read the token and every update"
        return Finding("TLS", words, wrong=False)
    return Finding("TLS", f"set, by {files.certificate}", wrong=False)


def _of_nodes(nodes: Sequence[NodeFacts]) -> list[Finding]:
    here = dict(facts_here()["versions"])
    findings = [
        Finding(node.address, words, wrong=True) for node in nodes for words in _wrong(node, here)
    ]
    kinds = {node.processor for node in nodes if node.cpus and node.processor}
    if len(kinds) > 1:
        words = (
            f"are of several kinds of CPU ({', '.join(sorted(kinds))}): the last bits of a result "
            "may depend on which of them trains a client"
        )
        findings.append(Finding("nodes", words, wrong=False))
    if not findings:
        count = "node is" if len(nodes) == 1 else "nodes are"
        findings.append(Finding("nodes", f"{len(nodes)} {count} in order, and alike", wrong=False))
    return findings


def _wrong(node: NodeFacts, here: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a node, each with its remedy."""
    yield from node.problems
    have = dict(node.versions)
    for name in MUST_AGREE if have else ():
        if have.get(name) != here[name]:
            yield (
                f"has {name} {have.get(name, 'none')}, and here it is {here[name]}: install the "
                "same with constraints.txt"
            )
    if node.shared and node.store > node.shared:
        yield (
            f"its object store of {node.store / 2**30:.1f} GiB is larger than its shared memory of "
            f"{node.shared / 2**30:.1f}, so it spills to disk: raise --shm-size"
        )
    if have and node.gpus > len(node.gpu_names):
        yield (
            f"tells Ray of {node.gpus:g} GPUs, and torch sees {len(node.gpu_names)}: install its "
            "driver, or a build of torch for CUDA"
        )


def _of_experiment(foreseen: Foreseen) -> list[Finding]:
    if foreseen.problems:
        return [Finding("experiment", problem, wrong=True) for problem in foreseen.problems]
    return [Finding("experiment", f"all {foreseen.hosts} hosts have their place", wrong=False)]
