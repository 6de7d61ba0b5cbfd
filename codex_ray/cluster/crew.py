"""The hosts of a run: where they are placed, what each gets of the cluster, and who owns them.

They belong to the driver, so that a coordinator may be lost without them, and end when it does.
Their places are reserved together: of two runs on one cluster neither waits with half of its hosts
for the other's. Whoever is placed already, as a trial of a sweep is, brings the places along.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from codex_ray.cluster.gpu_scout import footprint_of
from codex_ray.cluster.hosts import HostActor
from codex_ray.config import resolved
from codex_ray.errors import ClusterError

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.learning.device_memory import Footprint

PARTS: Final = 100
"""A share is so many parts of a CPU or a GPU; Ray itself counts in ten-thousandths."""


@dataclass(frozen=True)
class Berth:
    """How a host of a run is started, wherever that may be.

    Attributes:
        spec: the experiment as JSON.
        paths: where hosts find Python modules.
        shares: what each gets of the CPUs and the GPUs of its node, as Ray's options.
        limit: the part of a GPU's memory that its tensors may take; None without a GPU.
        data: the data set in the object store, if it is shared: one reference, else none.
    """

    spec: str
    paths: tuple[str, ...]
    shares: dict[str, float]
    limit: float | None = None
    data: tuple[Any, ...] = field(default=(), repr=False)

    def host(self, strategy: Any = "SPREAD") -> Any:
        """A host actor, placed by a scheduling strategy of Ray's."""
        options = HostActor.options(**self.shares, scheduling_strategy=strategy)
        return options.remote(self.spec, list(self.paths), self.limit, *self.data)


@dataclass(frozen=True)
class Crew:
    """The hosts of a run, which whoever started them owns.

    Attributes:
        berth: how they were started, and how another one is.
        hosts: the actors.
        group: the places reserved for them; None, where they were brought along.
    """

    berth: Berth
    hosts: list[Any]
    group: PlacementGroup | None = None

    @classmethod
    def start(
        cls, experiment: Experiment, paths: Sequence[str], *, data: Sequence[Any] = ()
    ) -> Crew:
        """The hosts of an experiment; they build themselves while others go on.

        Args:
            experiment: whose clients they carry.
            paths: where they find Python modules.
            data: its data set in the object store, if it is shared.

        Raises:
            ClusterError: the cluster has no CPU at all, or no GPU for a plan that trains on one.
        """
        cluster, spec = experiment.cluster, json.dumps(resolved(experiment))
        placed = get_current_placement_group()
        if placed is not None:
            first = first_of(placed, hosts=cluster.hosts)
            shares = _shares_in(placed.bundle_specs[first])
            berth = Berth(spec, tuple(paths), shares, shares.get("num_gpus"), tuple(data))
            return cls(berth, _hosts_in(placed, berth, first=first, count=cluster.hosts))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        limit, gpus = None, 0.0
        if gpu := gpu_of(experiment):
            have = [node.get("GPU", 0.0) for node in nodes]
            if not any(have):
                raise ClusterError(
                    f"plan.device is {gpu}, but the cluster has no GPU: add a node "
                    "that has one, or start a new run with plan.device cpu"
                )
            found = footprint_of(experiment, spec, paths, data)
            gpus = gpu_part(found, have, hosts=cluster.at_least)
            limit = found.limit(gpus)
        shares = shares_of(nodes, hosts=cluster.at_least, gpus=gpus)
        berth = Berth(spec, tuple(paths), shares, limit, tuple(data))
        each = {"CPU": shares["num_cpus"]}
        if "num_gpus" in shares:
            each["GPU"] = shares["num_gpus"]
        group = placement_group([each] * cluster.at_least, strategy="SPREAD")
        hosts = _hosts_in(group, berth, first=0, count=cluster.at_least)
        # Ray takes those that have no place yet for a demand, and an autoscaler adds nodes.
        hosts += [berth.host() for _ in range(cluster.hosts - cluster.at_least)]
        return cls(berth, hosts, group)

    def another(self, number: int) -> Any:
        """A host in place of one that was ended: in a reserved place, if it had one."""
        group = self.group or get_current_placement_group()
        if group is None or (self.group is not None and number >= group.bundle_count):
            return self.berth.host()
        return self.berth.host(PlacementGroupSchedulingStrategy(group))

    def close(self) -> None:
        """Ends the hosts and gives their places back."""
        for host in self.hosts:
            with suppress(RayError):
                ray.kill(host, no_restart=True)
        if self.group is not None:
            with suppress(RayError):
                remove_placement_group(self.group)


@contextmanager
def seats(experiment: Experiment, count: int) -> Iterator[list[dict[str, Any]]]:
    """Ray's options for so many actors, who work before the run's hosts are started.

    They are where those will be: in places that were brought along, or reserved together here.

    Raises:
        ClusterError: the cluster has no CPU for them, or fewer places were brought along.
    """
    placed = get_current_placement_group()
    if placed is not None:
        first = first_of(placed, hosts=experiment.cluster.hosts)
        shares = {"num_cpus": _shares_in(placed.bundle_specs[first])["num_cpus"]}
        yield _options_in(placed, shares, first=first, count=count)
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shares = shares_of(nodes, hosts=count, gpus=0.0)
    group = placement_group([{"CPU": shares["num_cpus"]}] * count, strategy="SPREAD")
    try:
        yield _options_in(group, shares, first=0, count=count)
    finally:
        with suppress(RayError):
            remove_placement_group(group)


def _options_in(
    group: PlacementGroup, shares: dict[str, float], *, first: int, count: int
) -> list[dict[str, Any]]:
    there = _places(group, first=first, count=count)
    return [{**shares, "scheduling_strategy": place} for place in there]


def first_of(placed: PlacementGroup, *, hosts: int) -> int:
    """The first of the places for hosts among those brought along; what is before is the trial's.

    Raises:
        ClusterError: they are fewer.
    """
    first = int(placed.bundle_count) - hosts
    if first < 0:
        raise ClusterError(
            f"{placed.bundle_count} places are reserved for this process, and cluster.hosts is "
            f"{hosts}: reserve one for each, or lower it"
        )
    return first


def _hosts_in(group: PlacementGroup, berth: Berth, *, first: int, count: int) -> list[Any]:
    """So many hosts, each in a place of its own, from the place `first` on."""
    return [berth.host(place) for place in _places(group, first=first, count=count)]


def _places(group: PlacementGroup, *, first: int, count: int) -> list[Any]:
    """So many places of a group, from the place `first` on, as Ray's strategies."""
    return [
        PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
        for place in range(first, first + count)
    ]


def _shares_in(place: Mapping[str, float]) -> dict[str, float]:
    """What a host gets of a place that was brought along."""
    shares = {"num_cpus": float(place.get("CPU", 0.0))}
    return shares | ({"num_gpus": float(place["GPU"])} if "GPU" in place else {})


def shares_of(nodes: Sequence[Mapping[str, float]], *, hosts: int, gpus: float) -> dict[str, float]:
    """What each host gets of the CPUs and GPUs of its node, as Ray's options.

    Args:
        nodes: what each has.
        hosts: how many have to fit on the cluster as it is.
        gpus: the part of a GPU that each gets.

    Raises:
        ClusterError: the cluster has no CPU for them.
    """
    room = [room_for(gpus, node.get("GPU", 0.0)) for node in nodes] if gpus else None
    cpus = share_of([node.get("CPU", 0.0) for node in nodes], hosts, room=room)
    if not cpus:
        raise ClusterError(
            "the cluster has no CPU for hosts: start it with --num-cpus or add nodes"
        )
    return {"num_cpus": cpus} | ({"num_gpus": gpus} if gpus else {})


def gpu_part(found: Footprint, have: Sequence[float], *, hosts: int) -> float:
    """The part of a GPU that each host gets: what it was seen to need, and some more.

    Args:
        found: what one of them needs.
        have: how many GPUs each node has.
        hosts: how many.

    Raises:
        ClusterError: they do not all fit.
    """
    part = found.part
    fit = sum(room_for(part, gpus) for gpus in have)
    if part > 1 or fit < hosts:
        raise ClusterError(
            f"a host needs {(found.context + found.held) / 2**30:.1f} GiB of a GPU's "
            f"{found.total / 2**30:.1f}, so {fit} of {hosts} fit on {sum(have):g} GPUs: lower "
            + ("plan.clients" if not fit else f"cluster.hosts to {fit}, or add nodes")
        )
    return part


def gpu_of(experiment: Experiment) -> str:
    """The device of its plan, if that is a GPU; else nothing."""
    return experiment.plan.device if experiment.plan.plan.on_gpu else ""


def room_for(part: float, gpus: float) -> int:
    """How many hosts that each get a part of a GPU find a place on so many: none is on two."""
    return int(gpus) * (PARTS // round(PARTS * part))


def share_of(nodes: Sequence[float], hosts: int, *, room: Sequence[int] | None = None) -> float:
    """What each of so many hosts gets of something, in hundredths; one at the most.

    It is the largest share of which so many fit on the nodes, none of them on two: of 1 and 2 CPUs
    four hosts get .66 each, where .75 would leave one of them without a place. 0: they do not fit.

    Args:
        nodes: how much of it each node has.
        hosts: how many.
        room: how many each node has room for otherwise.
    """
    most = [hosts] * len(nodes) if room is None else room

    def fit(part: int) -> int:
        held = zip(nodes, most, strict=True)
        return sum(min(limit, int(PARTS * have + 1e-6) // part) for have, limit in held)

    return max((part for part in range(1, PARTS + 1) if fit(part) >= hosts), default=0) / PARTS
