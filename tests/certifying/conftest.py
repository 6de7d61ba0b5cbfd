"""Small runs with their certificates, made once and copied by whoever changes something in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_runs import CONFIGS, certified

import codex_ray
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key of whoever runs these experiments."""
    folder = tmp_path_factory.mktemp("home") / "keys"
    make_keys(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def signing(keys: Path) -> Iterator[None]:
    """Every run of this folder is signed with that key, and with no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(keys))
        yield


@pytest.fixture(scope="session")
def originals(signing: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the run of that name; nobody may change it."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("runs") / name
            codex_ray.run(CONFIGS[name], out=made[name])
            certified(made[name])
        return made[name]

    return run


@pytest.fixture
def copied(originals: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the run of that name, to be changed at will."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(originals(name), tmp_path / name))

    return copy
