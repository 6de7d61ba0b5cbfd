"""A cluster of several nodes on loopback, for chaos: what dies of it is replaced, nothing is left.

Its nodes are real ones (`ray.cluster_utils.Cluster`): each has a raylet, an object store and
workers of its own. Only the machine is the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ray.cluster_utils import Cluster

from codex_ray.cluster.doors import demand, on_loopback, own_token, session_folder
from codex_ray.cluster.processes import title_of, using
from codex_ray.errors import ClusterError

STORE: Final = 100 * 2**20
"""Bytes of a node's object store."""
TRIES: Final = 3
"""How often a node is started: on a busy machine its agents may take longer than it allows them."""
GRACE: Final = 10.0
"""Seconds for processes of a cluster that has ended to end as well."""
SHARED_MEMORY: Final = Path("/dev/shm")
SYSTEM: Final[dict[str, Any]] = {
    # A node counts as dead after three seconds without a word, instead of about fifteen.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
    # Hosts would stand back behind whatever else the machine does, and so would what is measured.
    "worker_niceness": 0,
}


class Loopback:
    """A running cluster: a head that carries nobody, and nodes that carry hosts.

    Attributes:
        folder: of its sockets and logs, gone with it.
        replaced: nodes that were found dead, so far.
        left: what of it was still there a while after its end, in words.
    """

    def __init__(self, cluster: Cluster, folder: Path, *, cpus: int) -> None:
        self._cluster = cluster
        self._cpus = cpus
        self.folder = folder
        self.replaced = 0
        self.left: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where drivers join it."""
        return str(self._cluster.address)

    def start(self) -> None:
        """Starts the head.

        Raises:
            ClusterError: it does not start.
        """
        self._add(num_cpus=0, include_dashboard=False, _system_config=SYSTEM)

    def add(self) -> None:
        """One more node.

        Raises:
            ClusterError: it does not start.
        """
        self._add(num_cpus=self._cpus)

    def _add(self, **options: Any) -> None:
        for left in reversed(range(TRIES)):
            try:
                self._cluster.add_node(
                    object_store_memory=STORE, temp_dir=str(self.folder), wait=True, **options
                )
                return
            except Exception as error:  # Ray raises just that where a node's process is too slow
                if not left:
                    raise ClusterError(
                        f"a node on loopback does not start ({error}): is this machine too busy?"
                    ) from error

    def mend(self) -> bool:
        """Replaces every node that is dead by a new one; whether there was any."""
        dead = [node for node in self._cluster.worker_nodes if node.dead_processes()]
        for node in dead:
            self._cluster.remove_node(node, allow_graceful=False)
            self.add()
        self.replaced += len(dead)
        return bool(dead)


@contextmanager
def loopback(nodes: int, *, cpus: int) -> Iterator[Loopback]:
    """A cluster with so many nodes that carry hosts; all its processes end with the block.

    Each node says that it has `cpus` CPUs. The cluster demands a token that is made for it alone,
    listens on loopback only, and keeps its sockets and logs in a folder of this user's, which is
    removed.

    Raises:
        ClusterError: it does not start.
    """
    demand("token")
    folder = Path(tempfile.mkdtemp(prefix="c-", dir=Path(session_folder()).parent))
    stores_before = stores()
    with own_token(), on_loopback(), _ray_folder(folder):
        # Processes of a node are begun by this thread: they end when it does, even if it is killed.
        cluster = Cluster()
        one = Loopback(cluster, folder, cpus=cpus)
        try:
            one.start()
            for _ in range(nodes):
                one.add()
            yield one
        finally:
            _ended(cluster)
            one.left = left_behind(folder, stores_before=stores_before)
            for pid in using(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _ended(cluster: Cluster) -> None:
    """Ends every node, the dead ones too."""
    for node in [*cluster.worker_nodes, cluster.head_node]:
        if node is not None:
            with suppress(AssertionError, OSError):  # of a node that was killed before
                cluster.remove_node(node)  # gracefully: a raylet then ends its agents too
    cluster.shutdown()


@contextmanager
def _ray_folder(folder: Path) -> Iterator[None]:
    """Where Ray writes the address of the cluster of the day, which is the user's own otherwise."""
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(folder)
    (folder / "ray").mkdir()
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before


def stores() -> set[str]:
    """The files of object stores that are in shared memory under a name."""
    return (
        {file.name for file in SHARED_MEMORY.glob("plasma*")} if SHARED_MEMORY.is_dir() else set()
    )


def left_behind(folder: Path, *, stores_before: set[str]) -> tuple[str, ...]:
    """What is still there of a cluster that has ended, in words: nothing, if all is well.

    Those that end because others have get a moment for it.
    """
    until = time.monotonic() + GRACE
    while (pids := using(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    found = [f"process {pid} ({title_of(pid)[:60]})" for pid in pids]
    return (*found, *(str(SHARED_MEMORY / name) for name in sorted(stores() - stores_before)))
