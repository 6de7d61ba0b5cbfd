"""Asking a served model over TLS as fast as it answers, and what each of its processes used for it.

The server is the command as a person gives it, in processes of its own; whoever asks shares the
machine with it, so that rates are those of both together.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codex_ray.bench.processes import cpu_by_role, family, machine_seconds, taken_by_others
from codex_ray.cluster.processes import words_of
from codex_ray.errors import ClusterError

COMMAND: Final = (sys.executable, "-m", "codex_ray.cli")
PATIENCE: Final = 120.0
"""Seconds until a server answers, and until it has ended."""
CLIENT: Final = "who asks"


@dataclass(frozen=True)
class Address:
    """Where a server is, whom it proves to be, and what opens it."""

    port: int
    authority: Path
    key: str = field(repr=False)
    body: bytes

    def request(self, *, key: str | None = None) -> bytes:
        """A prediction, as it goes over the wire."""
        head = (
            "POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {key or self.key}\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, of which the certificate has been checked."""
        tls = ssl.create_default_context(cafile=str(self.authority))
        return await asyncio.open_connection("localhost", self.port, ssl=tls)


@dataclass
class Answers:
    """What came back.

    Attributes:
        statuses: how often each.
        versions: of the model, in the order in which they began to answer.
        seconds: that each answer took, in order of arrival.
        wall: seconds of all of it.
        cpu: CPU seconds by process.
        others: the share of the machine that other processes took meanwhile.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    later: Counter[str] = field(default_factory=Counter)
    versions: list[bytes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    others: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall

    def milliseconds(self, share: float) -> float:
        """The time within which that share of the answers came."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    def cpu_ms(self, name: str) -> float:
        """CPU milliseconds of a process for each answer."""
        return 1000 * self.cpu.get(name, 0.0) / len(self.seconds)


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, Mapping[bytes, bytes], bytes]:
    """The status, headers and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return int(first.split()[1]), headers, body


async def ask(
    address: Address,
    *,
    connections: int,
    seconds: float = math.inf,
    requests: float = math.inf,
    at: Mapping[int, Callable[[], object]] | None = None,
) -> Answers:
    """The answers to one request after the other on each connection.

    Args:
        address: whom to ask.
        connections: at a time.
        seconds: for so long, or
        requests: until so many are answered.
        at: what is done, in a thread, before the request of that number.
    """
    found, number, events = Answers(), 0, dict(at or {})
    pairs = [await address.connect() for _ in range(connections)]
    request, began = address.request(), time.monotonic()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        while number < requests and time.monotonic() - began < seconds:
            number += 1
            if number in events:
                await asyncio.to_thread(events.pop(number))
            sent = time.perf_counter()
            writer.write(request)
            status, headers, body = await one_answer(reader)
            found.seconds.append(time.perf_counter() - sent)
            note(found, status, headers, body)
            if headers.get(b"connection") == b"close":
                writer.close()
                reader, writer = await address.connect()
        writer.close()

    await asyncio.gather(*(one(*pair) for pair in pairs))
    found.wall = time.monotonic() - began
    return found


def note(found: Answers, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
    """Counts an answer."""
    found.statuses[status] += 1
    found.later[headers.get(b"retry-after", b"").decode()] += 1
    version = body.partition(b'"version":"')[2].partition(b'"')[0]
    if found.versions[-1:] != [version]:
        found.versions.append(version)


def measured(address: Address, *, connections: int, seconds: float) -> Answers:
    """The answers of so many seconds, and the CPU time of every process."""
    processes = _processes()
    before, machine = cpu_by_role(processes), machine_seconds()
    found = asyncio.run(ask(address, connections=connections, seconds=seconds))
    after, machine = cpu_by_role(processes), machine_seconds() - machine
    found.cpu = {name: after[name] - before[name] for name in processes}
    found.others = taken_by_others(machine=machine, ours=sum(found.cpu.values()), wall=found.wall)
    return found


@contextmanager
def serving_command(
    words: list[str], environment: Mapping[str, str], *, port: int
) -> Iterator[None]:
    """The command `codex-ray serve` with `words`, while the block runs and it listens at `port`.

    Raises:
        ClusterError: it does not serve, or does not end well.
    """
    kept = {name: it for name, it in os.environ.items() if not name.startswith("RAY_")}
    server = subprocess.Popen(
        [*COMMAND, "serve", *words],
        env=kept | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    try:
        assert server.stdout is not None
        for line in server.stdout:
            lines.append(line)
            if line.startswith("serving "):
                break
        else:
            raise ClusterError(f"codex-ray serve: {(lines or ['it says nothing'])[-1].strip()}")
        _wait(port)
        yield
    finally:
        server.send_signal(2)
        try:
            server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
            server.wait()


def _wait(port: int) -> None:
    """Until somebody listens there.

    Raises:
        ClusterError: nobody does.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            socket.create_connection(("localhost", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.05)
    raise ClusterError(f"codex-ray serve: does not listen at {port}")


def _processes() -> dict[str, list[int]]:
    """This process and all that it has started, by what they do."""
    found: dict[str, list[int]] = {}
    for pid in sorted(family()):
        name = CLIENT if pid == os.getpid() else _called(pid)
        found.setdefault(name, []).append(pid)
    return found


def _called(pid: int) -> str:
    """What a process does, in a word or two."""
    words = words_of(pid)
    if not words:
        return "gone"
    title = words[0]
    if title.endswith("haproxy"):
        return "TLS terminator" if "codex-ray-tls" in "".join(words) else "HAProxy"
    for word, name in _NAMES.items():
        if word in title:
            return name
    if "codex_ray.cli" in words:
        return "command"
    return "rest of Ray"


_NAMES: Final = {
    "ServeReplica": "replica",
    "HAProxyManager": "rest of Serve",
    "ProxyActor": "proxy",
    "ServeController": "rest of Serve",
}
