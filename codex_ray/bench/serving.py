"""`codex-ray bench serve`: requests a second and how long they take, with TLS and every guard on.

A small model is trained with a privacy claim, registered, promoted and served by the command that a
person types. Whoever asks runs on the same machine, and takes a part of it; the CPU milliseconds of
each process say what a request costs whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

from codex_ray.api import run
from codex_ray.bench.bars import Figure, Row, at_least, at_most, fewer
from codex_ray.bench.parts import Part
from codex_ray.bench.serving_load import (
    Address,
    Answers,
    ask,
    measured,
    note,
    one_answer,
    serving_command,
)
from codex_ray.bench.small_runs import SERVED
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.inherited import environment
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry import Registry
from codex_ray.serving.key_file import KeyFile
from codex_ray.serving.ray_serve import free_ports

SECONDS: Final = 10.0
WARM: Final = 2.0
"""Seconds of requests that are not measured."""
REQUESTS: Final = 3000
CROWD: Final = 400
HOUSE: Final = 8
"""Requests at a time that fill the server which is asked for more."""
UNLIMITED: Final = ("--rate", "1000000", "--address-rate", "1000000")
NAME: Final = "tumour"
BODY: Final = b'{"records": [[0.1, 0.2]]}'
Bars: TypeAlias = Mapping[int, Mapping[str, float]]
"""For a number of connections: requests a second at least, and p50 in milliseconds at most."""


@dataclass(frozen=True)
class Home:
    """A registry with two versions of a model, two API keys, and a certificate for localhost."""

    folder: Path
    files: NodeFiles
    registry: Registry
    keys: tuple[str, str]

    @contextmanager
    def serving(self, *more: str) -> Iterator[Address]:
        """The address of the command with these options, while the block runs."""
        (port,) = free_ports(1)
        words = [NAME, "--registry", str(self.folder / "models"), "--port", str(port), *UNLIMITED]
        words += ["--cert", str(self.files.certificate), "--key", str(self.files.key), *more]
        words += ["--keys", str(self.folder / "access" / "access.json")]
        variables = {FOLDER_VARIABLE: str(self.folder / "keys")}
        with serving_command(words, variables, port=port):
            yield Address(port, self.files.authority, self.keys[0], BODY)


@contextmanager
def home() -> Iterator[Home]:
    """A model from its training to its promotion, in a folder that goes with the block."""
    with TemporaryDirectory(prefix="codex-ray-bench-") as name:
        folder = Path(name)
        with environment({FOLDER_VARIABLE: str(folder / "keys")}):
            key, _ = make_keys(folder / "keys")
            registry = Registry.create(folder / "models", key=key)
            for seed in (1, 2):
                run(SERVED | {"seed": seed}, out=folder / f"run{seed}")
                registry.register(folder / f"run{seed}", NAME)
            registry.promote(NAME, 1)
        files = issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
        access = KeyFile(folder / "access" / "access.json")
        terms: dict[str, Any] = {"roles": ("user",), "scopes": ("model:*",), "seconds": 86400.0}
        terms["budget"] = 10**9  # so that it is kept, and never spent
        alice, bob = (access.create(who, now=time.time(), **terms)[1] for who in ("alice", "bob"))
        yield Home(folder, files, registry, (alice, bob))


def loaded(scale: float, *, what: str, options: Sequence[str], bars: Bars) -> Iterator[Row]:
    """The server under as many requests as it answers, on one connection and on eight."""
    seconds = max(1.0, SECONDS * scale)
    with home() as ours, ours.serving(*options) as address:
        for connections in (1, 8):
            measured(address, connections=connections, seconds=min(WARM, seconds))
            found = measured(address, connections=connections, seconds=seconds)
            said = f"{what}, {connections} connection{'s' if connections > 1 else ''}"
            yield _row(said, found, bars.get(connections, {}))


def _row(name: str, found: Answers, bar: Mapping[str, float]) -> Row:
    p50, p95, p99 = (found.milliseconds(share) for share in (0.5, 0.95, 0.99))
    rate, middle = "requests a second", "p50, ms"
    cpu = {who: found.cpu_ms(who) for who in found.cpu if found.cpu_ms(who) >= 0.005}
    names = sorted(cpu, key=lambda who: -cpu[who])
    told = ", ".join(f"{who} {cpu[who]:.2f}" for who in names)
    words = [f"at least {bar[rate]:g} requests a second"] if rate in bar else []
    words += [f"p50 at most {bar[middle]:g} ms"] if middle in bar else []
    refused = sum(found.statuses.values()) - found.statuses[200]
    return Row(
        name,
        f"{found.rate:.0f} requests/s, p50 {p50:.1f} ms, p95 {p95:.1f}, p99 {p99:.1f}; CPU ms a "
        f"request: {told}; others took {found.others:.0%} of the machine",
        ", ".join(words),
        (
            at_least(rate, found.rate, bar[rate]) if rate in bar else Figure(rate, found.rate),
            at_most(middle, p50, bar[middle]) if middle in bar else Figure(middle, p50),
            Figure("p95, ms", p95),
            Figure("p99, ms", p99),
            at_most("answers other than 200", refused, 0)
            if bar
            else Figure("answers other than 200", refused),
            Figure("CPU ms a request", sum(cpu.values())),
            *(Figure(f"of these, {who}", cpu[who]) for who in names),
            Figure("share of the machine that others took", found.others),
        ),
    )


def overload(scale: float) -> Iterator[Row]:
    """A server whose places are all held by slow bodies, and many more who ask."""
    count = fewer(CROWD, scale, least=HOUSE)
    with home() as ours, ours.serving("--ongoing", str(HOUSE)) as address:
        found = asyncio.run(_crowd(address, ours.keys, count))
    told = found.statuses[503]
    worst, p50 = found.milliseconds(1.0), found.milliseconds(0.5)
    yield Row(
        f"{HOUSE} slow bodies fill the house, {count} more ask",
        f"{told} told 503 with Retry-After; p50 {p50:.1f} ms, worst {worst:.1f} ms",
        "every one is told 503 with Retry-After at once: within the second that it is to wait",
        (
            at_least("told 503 with Retry-After", min(told, found.later["1"]), count),
            at_most("worst, ms", worst, 1000.0),
            Figure("p50, ms", p50),
        ),
    )


async def _crowd(address: Address, keys: Sequence[str], count: int) -> Answers:
    """The answers to `count` requests while as many as the server takes at a time are held up."""
    held = [await address.connect() for _ in range(HOUSE)]
    for number, (_, writer) in enumerate(held):
        writer.write(address.request(key=keys[number % 2])[:-5])
    await asyncio.sleep(1.0)  # until all of them hold their places
    found = await ask(address, connections=HOUSE, requests=count)
    for _, writer in held:
        writer.write(BODY[-5:])
    last: Counter[int] = Counter()
    for reader, writer in held:
        last[(await one_answer(reader))[0]] += 1
        writer.close()
    if last != {200: HOUSE}:
        note(found, 0, {}, b"")  # who held a place was to be answered all the same
    return found


def reload(scale: float) -> Iterator[Row]:
    """Requests without a pause while another version is promoted, and rolled back."""
    count = fewer(REQUESTS, scale, least=300)
    with home() as ours, ours.serving() as address:
        changes = {
            count // 3: partial(ours.registry.promote, NAME, 2),
            2 * count // 3: partial(ours.registry.rollback, NAME),
        }
        found = asyncio.run(ask(address, connections=4, requests=count, at=changes))
    failed = sum(found.statuses.values()) - found.statuses[200]
    went = [version.decode() for version in found.versions]
    yield Row(
        f"{sum(found.statuses.values())} requests across a promotion and a rollback",
        f"{failed} failed; answered by versions {', '.join(dict.fromkeys(went))}, first {went[0]}, "
        f"last {went[-1]}; worst {found.milliseconds(1.0):.0f} ms",
        "none fails, and version 2 answers in between",
        (
            at_most("failed", failed, 0),
            at_least("requests", sum(found.statuses.values()), count),
            at_least("versions that answered", len(set(went)), 2),
            Figure("worst, ms", found.milliseconds(1.0)),
        ),
    )


PARTS: Final[Mapping[str, Part]] = {
    "one-process": partial(loaded, what="one process", options=["--local"], bars={}),
    "proxy": partial(
        loaded,
        what="Ray Serve's own proxy",
        options=[],
        bars={1: {"requests a second": 100.0, "p50, ms": 10.0}},
    ),
    "haproxy": partial(
        loaded,
        what="HAProxy behind a TLS terminator",
        options=["--haproxy"],
        bars={8: {"requests a second": 600.0}},
    ),
    "overload": overload,
    "reload": reload,
}
"""What to ask for by name."""
