"""A head node by `ray start`, on loopback, closed by token and TLS, ended process by process."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.token import make_token

MARK = "CODEX_RAY_TEST_HEAD"
"""A variable that every process of one head inherits: the ones to end, and no others."""
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass
class RealHead:
    """A running head.

    Attributes:
        folder: of this head alone, with a short name because its sockets are below it.
        token: the file of the token that it demands.
        files: of its TLS; None without.
        mark: what its processes have in their environment.
        demands: whether it demands the token.
        ip: its address: one of loopback, all of which (127.0.0.0/8) are this machine's.
        cpus: that it says that it has.
    """

    folder: Path
    token: Path
    files: NodeFiles | None
    demands: bool = True
    ip: str = "127.0.0.1"
    cpus: int = 2
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    port: int = 0
    dashboard: int = 0
    client: int = 0

    @property
    def address(self) -> str:
        """Of the GCS."""
        return f"{self.ip}:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a driver that may come in has in its environment."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        # Nothing of the user's own: neither a token nor a cluster that runs.
        mine = {
            "HOME": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            # Where "auto" looks for the address of the cluster.
            "RAY_TMPDIR": str(self.folder),
        }
        if self.ip == "127.0.0.1":
            # The switch by which Ray stays on loopback, on every system; no other node may join.
            mine["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if self.demands:
            mine |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        return kept | mine | (self.files.environment if self.files else {})

    def start(self, *, dashboard: bool) -> None:
        """Starts it, and returns when it is up."""
        self.port, self.dashboard, self.client = free_port(), free_port(), free_port()
        command = ["--head", f"--port={self.port}", f"--temp-dir={self.folder / 'ray'}"]
        command += [f"--include-dashboard={dashboard}", "--dashboard-host=127.0.0.1"]
        command += [f"--dashboard-port={self.dashboard}"]
        command += [f"--ray-client-server-port={self.client}"]
        self._start(command, self.environment(), ip=self.ip, cpus=self.cpus)

    def join(self, files: NodeFiles, *, ip: str, cpus: int) -> None:
        """Starts another node, with keys of its own, and returns when it has joined."""
        environment = self.environment() | files.environment
        self._start([f"--address={self.address}"], environment, ip=ip, cpus=cpus)

    def _start(self, words: list[str], environment: dict[str, str], *, ip: str, cpus: int) -> None:
        command = [*RAY, "start", *words, f"--num-cpus={cpus}", "--num-gpus=0"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        if ip != "127.0.0.1":  # which Ray takes for the name of the machine
            command += [f"--node-ip-address={ip}"]
        done = subprocess.run(
            command,
            env=environment | {MARK: self.mark},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def end(self) -> None:
        """Ends its processes, and no others, and takes its folder away."""
        mine = {process: _began(process) for process in family(self.mark)}
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for _ in range(20):
                mine = {
                    process: began for process, began in mine.items() if _began(process) == began
                }
                if not mine:
                    break
                for process in mine:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, sign)
                time.sleep(0.05)
        assert not mine
        shutil.rmtree(self.folder, ignore_errors=True)


def family(mark: str) -> list[int]:
    """The processes that have the mark in their environment, and those that they began.

    Some of Ray's processes write their title over their environment, so their parents count too.
    """
    parents, found = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _stat(process: int) -> list[str]:
    """What the kernel says of a process, from its state on (proc(5), field 3)."""
    return Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()


def _began(process: int) -> str | None:
    """When a process began, which tells it from a later one of its number; None if it is gone."""
    try:
        fields = _stat(process)
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def new_head(*, tls: bool) -> RealHead:
    """A head that is not started yet, with a token and certificates of its own."""
    folder = Path(tempfile.mkdtemp(prefix="cr-"))
    files = None
    if tls:
        authority = make_authority(folder / "ca")
        files = issue(authority, folder / "node", names=["127.0.0.1"])
    token = folder / "token"
    make_token(token)
    return RealHead(folder, token, files)


@contextlib.contextmanager
def closed_head(*, dashboard: bool) -> Iterator[RealHead]:
    """A running head, closed by token and TLS; its processes, and only they, end with the block."""
    one = new_head(tls=True)
    try:
        one.start(dashboard=dashboard)
        yield one
    finally:
        one.end()


def asked(words: list[str], *, environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """The exit status and the words of a `codex-ray` command from a shell of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "codex_ray.cli", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def listening(processes: list[int]) -> set[tuple[str, int]]:
    """The addresses and ports that the processes listen on."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                sockets[f"socket:[{fields[9]}]"] = _address(fields[1])
    found = set()
    for process in processes:
        for link in Path("/proc", str(process), "fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target in sockets:
                found.add(sockets[target])
    return found


def _address(field: str) -> tuple[str, int]:
    """What the kernel means by hexadecimal words of the machine's own order."""
    host, port = field.split(":")
    raw = bytes.fromhex(host)
    raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)
