"""Finished runs and their keys, made once; each test has a registry of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registered_runs import CONFIGS

import codex_ray
from codex_ray.records.keys import FOLDER_VARIABLE, SigningKey, make_keys
from codex_ray.registry import Registry

Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKey, Path]:
    """The key of whoever runs and registers, and its public file."""
    return make_keys(tmp_path_factory.mktemp("home") / "keys")


@pytest.fixture(scope="session", autouse=True)
def signing(keys: tuple[SigningKey, Path]) -> Iterator[None]:
    """Whoever runs these tests has that key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(keys[1].parent))
        yield


@pytest.fixture(scope="session")
def key(keys: tuple[SigningKey, Path]) -> SigningKey:
    return keys[0]


@pytest.fixture(scope="session")
def runs(signing: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The directory of the run of that name; nobody may change it."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / name
            codex_ray.run(CONFIGS[name], out=made[name])
        return made[name]

    return run


@pytest.fixture
def copied(runs: Runs, tmp_path: Path) -> Runs:
    """A copy of the run of that name, to be changed at will."""
    return lambda name: Path(shutil.copytree(runs(name), tmp_path / "runs" / name))


@pytest.fixture
def registry(key: SigningKey, tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry.create(tmp_path / "models", key=key)
