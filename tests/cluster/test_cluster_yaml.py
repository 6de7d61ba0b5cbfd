"""The launcher's files are ones that Ray's own launcher accepts, closed, and without a secret."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from ray.autoscaler._private.util import prepare_config, validate_config

from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.token import make_token

FILES = [Path("cluster.yaml"), Path("cluster/onprem.yaml")]
CLOUD = FILES[0]


def read(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_rays_own_validator_accepts_it_and_would_refuse_a_wrong_key(file: Path) -> None:
    validate_config(prepare_config(read(file)))
    with pytest.raises(Exception, match="initial_workers"):
        validate_config(prepare_config(read(file) | {"initial_workers": 2}))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_node_is_looked_at_and_demands_the_token(file: Path) -> None:
    config = read(file)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = config[key]
        starts = [line for line in commands if "ray start" in line]
        assert len(starts) == 1 and commands[-1] == starts[0]
        closed = (
            "RAY_AUTH_MODE=token ray start" in starts[0] or "closed.sh && ray start" in starts[0]
        )
        assert closed
        looked = any("codex-ray cluster preflight" in line for line in commands)
        assert looked or "closed.sh &&" in starts[0]
        # Fixed ports, so that the firewall table of docs/security.md holds.
        for port in ("--node-manager-port=6380", "--object-manager-port=8076"):
            assert port in starts[0]
    head = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head and "--port=6379" in head
    assert config["file_mounts"][_home(file) + "/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0].startswith("chmod 600")


def _home(file: Path) -> str:
    return "/home/ray" if file == CLOUD else "~"


def test_the_head_carries_no_clients_and_workers_come_and_go() -> None:
    config = read(CLOUD)
    head, worker = (config["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert head["resources"]["CPU"] == 0 and "GPU" not in head["resources"]
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] < worker["max_workers"] and config["idle_timeout_minutes"]
    assert config["provider"]["use_internal_ips"] is True
    assert "--num-cpus=0" in read(FILES[1])["head_start_ray_commands"][-1]


@pytest.mark.parametrize("file", [*FILES, Path("Dockerfile")], ids=str)
def test_everything_is_installed_from_the_lock_by_its_hash(file: Path) -> None:
    text = file.read_text()
    assert "--require-hashes -r" in text and "requirements.lock" in text
    assert "torch==2.13.0" in text


def test_the_lock_has_the_versions_that_the_tests_run_with() -> None:
    lock = dict(
        line.split(" ")[0].split("==")
        for line in Path("cluster/requirements.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    lines = Path("cluster/requirements.lock").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in packages)
    pinned = dict(
        line.split("==")
        for line in Path("constraints.txt").read_text().splitlines()
        if "==" in line
    )
    shared = {name.lower(): version for name, version in pinned.items() if name.lower() in lock}
    assert len(shared) > 12 and "torch" not in lock
    assert {name: lock[name] for name in shared} == shared


@pytest.mark.parametrize(
    "file", [*FILES, Path("Dockerfile"), Path("cluster/closed.sh"), Path(".dockerignore")], ids=str
)
def test_no_secret_is_in_it(file: Path) -> None:
    assert not re.search(r"[0-9a-fA-F]{32,}|AKIA|aws_secret|password", file.read_text())


TOOL = f"""#!{sys.executable}
import argparse, sys
from codex_ray.cli.cluster import add_cluster
from codex_ray.errors import CodexRayError
parser = argparse.ArgumentParser()
add_cluster(parser.add_subparsers())
arguments = parser.parse_args()
try:
    sys.exit(arguments.command(arguments))
except CodexRayError as error:
    sys.exit(str(error))
"""


def test_closed_sh_sets_token_and_tls_whole_and_stops_where_they_are_not_in_order(
    tmp_path: Path,
) -> None:
    """Sourced by a real shell, in a home that is made as the comments of onprem.yaml say."""
    tool = tmp_path / "codex_ray" / ".venv" / "bin" / "codex-ray"
    tool.parent.mkdir(parents=True)
    tool.write_text(TOOL)
    tool.chmod(0o755)
    script = f". {shlex.quote(str(Path('cluster/closed.sh').resolve()))} && env && echo started"

    def start() -> str:
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["/bin/sh", "-c", script], env=home, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    words = start()
    assert "there is no token" in words and "started" not in words
    token = make_token(tmp_path / ".ray" / "auth_token")
    words = start()
    assert "node.pem: cannot be read" in words and "started" not in words
    issue(make_authority(tmp_path / "ca"), tmp_path / ".ray" / "tls", names=["10.0.0.11"])
    words = start()
    assert words.endswith("started\n"), words
    found = dict(line.split("=", 1) for line in words.splitlines() if line.startswith("RAY_"))
    assert found["RAY_AUTH_MODE"] == "token" and token.secret not in words
    assert NodeFiles.named_by(found) == NodeFiles.under(tmp_path / ".ray" / "tls")
    Path(token.where).chmod(0o644)
    words = start()
    assert "others may read it" in words and "started" not in words


PACKAGE = [
    file
    for folder in ("codex_ray", "experiments", "cluster")
    for file in Path(folder).rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
]
TOP = [Path("pyproject.toml"), Path("README.md"), Path("LICENSE")]
PRIVATE = [
    *(Path("data/patients.csv"), Path("runs/q-001/checkpoint/round-000001.safetensors")),
    *(Path(".git/config"), Path(".venv/bin/python"), Path("keys/node-key.pem")),
]


def _left_by_rsync(patterns: list[str]) -> Callable[[Path], bool]:
    """What `rsync --exclude` of each leaves: a slash in front is the top of what is sent."""
    assert all(re.fullmatch(r"(/|\*\*/)[^/\[?]+", pattern) for pattern in patterns), patterns

    def left(file: Path) -> bool:
        return any(
            fnmatch(file.parts[0], pattern[1:])
            if pattern.startswith("/")
            else any(fnmatch(part, pattern.removeprefix("**/")) for part in file.parts)
            for pattern in patterns
        )

    return left


def _left_by_ray() -> Callable[[Path], bool]:
    """What Ray itself leaves of a job's working directory."""
    rules = get_excludes_from_ignore_files(Path(), include_gitignore=True)
    return lambda file: any(rule(file) for rule in rules)


def _left_by_docker() -> Callable[[Path], bool]:
    """What `docker build` does not see: of the lines that name a file or a folder above it, the
    last one counts, and each begins at the top."""
    lines = [line for line in Path(".dockerignore").read_text().splitlines() if line[0] != "#"]

    def left(file: Path) -> bool:
        found = False
        above = [str(one) for one in (file, *file.parents)][:-1]
        for line in lines:
            pattern = line.removeprefix("!")
            deep = pattern.startswith("**/")
            names = [Path(one).name for one in above] if deep else above
            if any(
                fnmatch(name, pattern.removeprefix("**/"))
                and (deep or name.count("/") == pattern.count("/"))
                for name in names
            ):
                found = not line.startswith("!")
        return found

    return left


@pytest.mark.parametrize(
    ("tool", "left", "whole"),
    [
        *((str(file), _left_by_rsync(read(file)["rsync_exclude"]), PACKAGE) for file in FILES),
        ("ray", _left_by_ray(), PACKAGE),
        ("docker", _left_by_docker(), [one for one in PACKAGE if one.parts[0] != "cluster"]),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_whole_package_goes_along_and_nothing_private_or_large(
    tool: str, left: Callable[[Path], bool], whole: list[Path]
) -> None:
    assert len(PACKAGE) > 300 and Path("codex_ray/data/__init__.py") in PACKAGE
    assert [str(file) for file in whole + TOP if left(file)] == []
    assert [str(file) for file in PRIVATE if not left(file)] == []
    assert not left(Path("cluster/requirements.lock")), tool


def test_the_tokens_own_mount_is_not_left_behind() -> None:
    """The launcher's list is for every mount, and a file that is sent alone is at the top."""
    for file in FILES:
        assert not _left_by_rsync(read(file)["rsync_exclude"])(Path("auth_token"))
    assert "auth_token" in Path(".rayignore").read_text().splitlines()


def test_the_image_runs_as_nobody_special() -> None:
    lines = Path("Dockerfile").read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM"))
    assert "USER 1000:1000" in lines[last:]
    assert not any(line.startswith(("ADD", "USER root")) for line in lines)
    assert any("RAY_AUTH_MODE=token" in line for line in lines[last:])
