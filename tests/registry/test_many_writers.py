"""Four processes register at once, and a crash at any step leaves what was there before."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registered_runs import another

from codex_ray.records.keys import SigningKey
from codex_ray.registry import Registry, RegistryError
from codex_ray.registry.events import BEGINNING
from codex_ray.registry.manifest import code_version
from codex_ray.registry.objects import Objects

Runs = Callable[[str], Path]
PROCESSES, EACH = 4, 10
DIED = 17


def _register_all(folder: Path, runs: list[Path], key: SigningKey) -> None:
    registry = Registry.create(folder, key=key)
    for run in runs:
        assert registry.register(run, "heart").new


def test_four_processes_register_ten_versions_each(
    runs: Runs, key: SigningKey, tmp_path: Path
) -> None:
    made = [
        another(runs("claims-nothing"), tmp_path / "runs" / str(n), accuracy=n / 100)
        for n in range(PROCESSES * EACH)
    ]
    folder = tmp_path / "models"  # made by whoever comes first
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_register_all, args=(folder, made[n::PROCESSES], key))
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    registry = Registry.open(folder, trusted=[key.public])
    versions = registry.versions("heart")
    assert [version.version for version in versions] == [*range(1, 41)]
    found = {registry.manifest(version).metrics["accuracy"] for version in versions}
    assert found == {n / 100 for n in range(40)}
    assert [registry.manifest(version).parent for version in versions] == [None, *range(1, 40)]
    events = registry.events()
    assert [event.kind for event in events] == ["created", *["registered"] * 40]
    assert [event.before for event in events] == [BEGINNING, *(e.address for e in events[:-1])]
    assert registry.verify() == []
    assert registry.unnamed() == []


def _steps(work: Callable[[Path], object], folder: Path, *, die_at: int) -> tuple[int, int]:
    """(exit status, steps) of a child that does `work`, and is gone before its step `die_at`.

    A step is whatever changes `folder`: a file opened to be written or renamed, a folder made, a
    statement of SQL that is no question.
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            return os.waitstatus_to_exitcode(status), len(pipe.read())
    os.close(read)
    taken, inside = 0, str(folder)

    def step() -> None:
        nonlocal taken
        taken += 1
        os.write(write, b".")
        if taken == die_at:
            os._exit(DIED)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.mkdir", "os.remove", "os.link")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(inside):
            step()

    def statement(sql: str) -> None:
        if not sql.startswith(("SELECT", "PRAGMA")):
            step()

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(statement)
        return connection

    connect, sqlite3.connect = sqlite3.connect, connected
    sys.addaudithook(watch)
    try:
        work(folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


CHANGES: dict[str, Callable[[Registry, list[Path]], object]] = {
    "first": lambda registry, made: registry.register(made[0], "heart"),
    "second": lambda registry, made: registry.register(made[1], "heart"),
    "promote 1": lambda registry, _: registry.promote("heart", 1, unsafe=["allow_uncertified"]),
    "promote 2": lambda registry, _: registry.promote("heart", 2, unsafe=["allow_uncertified"]),
    "revoke": lambda registry, _: registry.revoke("heart", 2, reason="test"),
    "rollback": lambda registry, _: registry.rollback("heart"),
}
"""Each can be done after those before it."""


def _state(folder: Path, key: SigningKey) -> list[tuple[str, str]] | None:
    """Every version with its state, after all of them were checked; None for no registry."""
    try:
        registry = Registry.open(folder, trusted=[key.public])
    except RegistryError:
        return None
    assert registry.verify(recompute=False) == []
    return [(version.label, version.state) for version in registry.versions()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_step_leaves_the_old_state_or_the_new(
    runs: Runs, key: SigningKey, tmp_path: Path, change: str
) -> None:
    """One of the two, always whole; and whoever comes next goes on as if nothing had been."""
    made = [another(runs("claims-nothing"), tmp_path / f"run-{n}", accuracy=n / 10) for n in (1, 2)]
    code_version()  # asks git, once: not in every child
    before = tmp_path / "before"
    before.mkdir()
    for earlier in [*CHANGES][: [*CHANGES].index(change)]:
        CHANGES[earlier](Registry.create(before, key=key), made)

    def work(folder: Path) -> None:
        CHANGES[change](Registry.create(folder, key=key), made)

    whole = Path(shutil.copytree(before, tmp_path / "whole"))
    status, steps = _steps(work, whole, die_at=-1)
    assert status == 0
    old, new = _state(before, key), _state(whole, key)
    assert old != new
    seen = []
    for die_at in range(1, steps + 1):
        folder = Path(shutil.copytree(before, tmp_path / str(die_at)))
        assert _steps(work, folder, die_at=die_at)[0] == DIED
        found = _state(folder, key)
        # The registry itself may have been made, and nothing in it yet.
        assert found in (old, new) or (old is None and found == [])
        seen.append(found == new)
        if die_at % 5 == 0 and found != new:
            work(folder)
            assert _state(folder, key) == new
    assert seen == sorted(seen)
    assert not seen[0]


def test_files_are_on_the_disk_before_the_index_names_them(
    registry: Registry, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a machine that loses power has the old state or the new one too."""
    happened: list[str] = []
    fsync, replace, connect = os.fsync, Path.replace, sqlite3.connect

    def synced(descriptor: int) -> None:
        happened.append(f"synced {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        happened.append(f"named {target}")
        return replace(path, target)

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(happened.append)
        return connection

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(sqlite3, "connect", connected)
    version = registry.register(runs("claims"), "heart").version
    manifest = registry.manifest(version)
    commit = happened.index("COMMIT")
    names = [version.manifest_sha256, *(stored.sha256 for stored in manifest.files.values())]
    for name in names:
        path = registry._shelf.objects.path(name)
        whole = next(n for n, said in enumerate(happened) if f"/.{name}." in said)
        named = happened.index(f"named {path}")
        listed = happened.index(f"synced {path.parent}", named)
        assert whole < named < listed < commit
    assert f"synced {registry.folder / 'objects'}" in happened[:commit]


def test_a_sweep_waits_for_whoever_registers(
    registry: Registry, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are about to be named are not swept, and a registration waits for a sweep."""
    objects = registry._shelf.objects
    swept = threading.Event()

    def sweep() -> None:
        registry.sweep()
        swept.set()

    put, waiting = Objects.put, threading.Thread(target=sweep)

    def sweeping_meanwhile(self: Objects, content: bytes) -> str:
        found = put(self, content)
        if waiting.ident is None:
            waiting.start()
        assert not swept.wait(0.02)
        return found

    monkeypatch.setattr(Objects, "put", sweeping_meanwhile)
    registry.register(runs("claims-nothing"), "heart")
    waiting.join()
    monkeypatch.setattr(Objects, "put", put)
    assert registry.verify() == []
    assert len(objects.all_files()) == 7
    left = objects.path("ab" + "0" * 62)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half a file")
    assert registry.sweep() == [left]
    assert registry.verify() == []


def test_registering_again_mends_a_damaged_file(registry: Registry, runs: Runs) -> None:
    version = registry.register(runs("claims-nothing"), "heart").version
    path = registry._shelf.objects.path(registry.manifest(version).model.sha256)
    path.unlink()
    path.write_bytes(b"x")
    assert len(registry.verify()) == 1
    assert not registry.register(runs("claims-nothing"), "heart").new
    assert registry.verify() == []
