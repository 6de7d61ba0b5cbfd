"""A Ray session for one run: started closed to strangers, left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.coordinator import Coordinator, read_round
from codex_ray.cluster.crew import Berth, Crew
from codex_ray.cluster.doors import ray_at
from codex_ray.cluster.inherited import module_paths
from codex_ray.cluster.joined_before import look_around
from codex_ray.cluster.shared_data import reference_for
from codex_ray.cluster.standby import Standby
from codex_ray.cluster.underway import Asking, tell_of_loss
from codex_ray.errors import ClusterError
from codex_ray.records.run_directory import RunDirectory
from codex_ray.threads import import_torch_alone, importing

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.federation.state import RoundResult

REPLACED: Final = 3
"""Coordinators that may be lost one after the other, with no round done in between."""


class _Silent(Exception):  # noqa: N818  # a coordinator that is lost as if it had died
    """A coordinator does not answer, or does nothing else."""


@contextmanager
def ray_session(
    address: str,
    *,
    insecure_local: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> Iterator[list[str]]:
    """A Ray that is ready to use; one that was running before is still running afterwards.

    Where this process is in one already, that is the one, if it is what was asked for and as closed
    as one that would be joined.

    Args:
        address: "local" for a Ray of its own; else where one is running.
        insecure_local: whether one that strangers could get into will do.
        meanwhile: is called in a thread of its own while Ray starts, and waited for.

    Yields what is open about it, in words: nothing, unless that was said to do.

    Raises:
        ClusterError: there is no cluster at `address`, it does not let us in, or it would let in
            strangers; or this process is in another one.
    """
    if ray.is_initialized():
        yield look_around(address, insecure_local=insecure_local)
        return
    beside = Thread(target=meanwhile, daemon=True)  # of nothing, it ends at once
    beside.start()
    with ray_at(address, insecure_local=insecure_local) as overlooked:
        beside.join()
        yield overlooked


def import_ahead(*, alone: bool) -> None:
    """Imports what a driver needs next: for the time in which it waits for Ray's processes.

    What `ray.init` imports by itself is about HTTP and metrics, so neither waits for the other.

    Args:
        alone: torch may come without its tables, because nobody's own code takes part.
    """
    with suppress(Exception), importing():  # an error comes again, where it is imported for use
        if alone:
            import_torch_alone()
        import_module("codex_ray.assembly")


def cluster_gpus() -> float:
    """How many GPUs the cluster has."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def _here() -> Any:
    """This node; inside a placement group its first bundle, and the hosts in the others.

    A trial of a sweep is such a group: it holds all that its hosts need before it begins.
    """
    group = get_current_placement_group()
    if group is None:
        node = ray.get_runtime_context().get_node_id()
        return NodeAffinitySchedulingStrategy(node, soft=False)
    return PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )


def ray_rounds(
    experiment: Experiment, directory: RunDirectory, *, kills: str = ""
) -> Iterator[RoundResult | None]:
    """Each round's result from a coordinator actor; first None, when the hosts are ready.

    It is for the inside of a `ray_session`. The coordinator runs on this node, because the run
    directory is here. One that is lost is replaced by another, which goes on from the last
    checkpoint with the same hosts: those are this process's.

    Args:
        experiment: of the run.
        directory: of the run.
        kills: the processes that are to be killed on the way, and when (see `kills`).

    Raises:
        ClusterError: coordinators are lost one after the other, and no round is done.
        CodexRayError: whatever ends the run.
    """
    ready, told, lost, term = False, -1, 0, 0
    with ExitStack() as stack:
        crew = Crew.start(experiment, module_paths(), data=reference_for(experiment))
        stack.callback(crew.close)
        standby = Standby(lambda: _coordinator(crew.berth), wanted=experiment.cluster.standby)
        stack.callback(standby.close)
        while True:
            try:
                coordinator = standby.take()
                results = _rounds_of_one(
                    coordinator, experiment, directory, crew, term=term, kills=kills
                )
                with closing(results):
                    for result in results:
                        if result is None and not ready:
                            ready = True
                            yield None
                        if result is not None and result.round > told:
                            told, lost = result.round, 0
                            standby.told()
                            yield result
                    return
            except (RayActorError, _Silent) as error:
                lost, term = lost + 1, term + 1
                cause = cause_of(error) if isinstance(error, RayActorError) else error
                if lost > REPLACED:
                    raise ClusterError(
                        f"{lost} coordinators were lost one after the other ({cause}): "
                        f"codex-ray run --resume {directory.path}"
                    ) from error
                tell_of_loss(directory, cause, round=told + 1)


def _coordinator(berth: Berth) -> Any:
    """A coordinator on this node, which builds itself while others go on."""
    coordinator = Coordinator.options(scheduling_strategy=_here()).remote()
    coordinator.build.remote(berth.spec, berth)
    return coordinator


def _rounds_of_one(
    coordinator: Any,
    experiment: Experiment,
    directory: RunDirectory,
    crew: Crew,
    *,
    term: int,
    kills: str,
) -> Generator[RoundResult | None, None, None]:
    """The same from one coordinator, who begins with the last round that is persisted.

    Raises:
        RayActorError, _Silent: it is lost.
        CodexRayError: whatever ends the run.
    """
    place = str(directory.path.resolve())
    asking = Asking(directory.path, deadline=experiment.cluster.deadline)
    try:
        stream = coordinator.run.options(num_returns="streaming").remote(
            place, crew.berth.spec, crew, term=term, kills=kills
        )
        while True:
            while not ray.wait([stream], timeout=asking.pause)[0]:
                asking.ask(coordinator)
                if trouble := asking.trouble:
                    raise _Silent(trouble)
            ref = next(stream, None)
            if ref is None:
                return
            line = ray.get(ref)
            yield read_round(line) if line else None
    except RayActorError:
        raise
    except RayError as error:
        raise cause_of(error) from error
    finally:
        ray.kill(coordinator)
        asking.close()
