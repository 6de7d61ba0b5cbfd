"""How the check of a cluster looks on a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from codex_ray.cluster.check import ClusterCheck
from codex_ray.cluster.foreseen import Foreseen


def node_table(check: ClusterCheck) -> Table:
    """A line for each node."""
    room = {} if check.foreseen is None else dict(check.foreseen.room)
    table = Table("node", "CPUs", "GPUs", "memory", "object store", "software", box=None)
    if room:
        table.add_column("hosts that fit", justify="right")
    for node in check.nodes:
        versions = dict(node.versions)
        software = ", ".join(f"{name} {versions[name]}" for name in versions if name != "numpy")
        gpus = f"{node.gpus:g}" + (f" ({node.gpu_names[0]})" if node.gpu_names else "")
        cells = [node.address, f"{node.cpus:g}", gpus, _gib(node.memory), _gib(node.store)]
        cells.append(software or "unknown")
        table.add_row(*cells, *([str(room.get(node.address, 0))] if room else []))
    return table


def foreseen_table(foreseen: Foreseen) -> Table:
    """What the experiment asks of the cluster."""
    table = Table("the experiment", "", box=None, show_header=False)
    table.add_row("hosts", f"{foreseen.hosts}")
    table.add_row("a host has", f"{foreseen.cpus:g} CPUs, {foreseen.gpus:g} GPUs")
    table.add_row("and in a round", f"about {foreseen.clients} clients")
    table.add_row("memory of a host", f"at most {_mib(foreseen.host_bytes)}")
    table.add_row("to every node", f"{_mib(foreseen.broadcast)} a round")
    return table


def finding_table(check: ClusterCheck) -> Table:
    """What was found, what is wrong in red."""
    table = Table(box=None, show_header=False)
    for finding in check.findings:
        mark = Text("wrong", style="red") if finding.wrong else Text("ok", style="green")
        table.add_row(mark, finding.about, finding.says)
    return table


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
