"""A real head and a real worker, by `ray start` as the documentation says it, and a run on both.

Each has an address of loopback for itself, as two machines would, keys of its own, and the same
token. Only what was started is ended: processes are found by a mark in their environment.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_head import RealHead, asked, family

import codex_ray
from codex_ray.cluster.certificates import issue, make_authority
from codex_ray.cluster.token import make_token
from codex_ray.config import experiment_from, to_yaml
from codex_ray.records.result import RunResult

HEAD, WORKER = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def two() -> Iterator[RealHead]:
    """A head with one CPU, and a worker with two."""
    folder = Path(tempfile.mkdtemp(prefix="cr-"))
    authority = make_authority(folder / "ca")
    make_token(folder / "token")
    files = issue(authority, folder / "head", names=[HEAD])
    one = RealHead(folder, folder / "token", files, ip=HEAD, cpus=1)
    try:
        one.start(dashboard=False)
        one.join(issue(authority, folder / "worker", names=[WORKER]), ip=WORKER, cpus=2)
        yield one
    finally:
        one.end()
    assert family(one.mark) == []


@pytest.mark.slow
def test_an_experiment_runs_on_a_head_and_a_worker_as_it_does_here(
    two: RealHead, silos: dict[str, Any], tmp_path: Path
) -> None:
    """Three hosts of a whole CPU each: there is no other place for them than one and two."""
    codex_ray.run(silos, out=tmp_path / "local")
    local = RunResult.read(tmp_path / "local")
    file, out = tmp_path / "silos.yaml", tmp_path / "out"
    file.write_text(to_yaml(experiment_from(silos)))
    there = {"environment": two.environment(), "folder": tmp_path}
    hosts = ["--set", "cluster.hosts=3"]

    check = ["cluster", "check", str(file), "--address", two.address, *hosts, "--json"]
    status, words = asked(check, **there)
    assert status == 0, words
    found = json.loads(words[words.index("{\n") :])
    assert found["ok"] and found["foreseen"]["room"] == {HEAD: 1, WORKER: 2}
    assert found["foreseen"]["cpus"] == 1.0

    status, words = asked(
        ["run", str(file), "--address", "auto", *hosts, "--out", str(out)], **there
    )
    assert status == 0, words
    far = RunResult.read(out)
    assert far.model_sha256 == local.model_sha256 and far.privacy == local.privacy
    assert far.overlooked == []
