"""A submitted experiment runs on the head, and its run directory comes back as the job wrote it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ray.job_submission import JobStatus
from real_head import RealHead, asked, closed_head, new_head

from codex_ray.cluster import submit as submitting
from codex_ray.cluster.packed_run import packed, unpack
from codex_ray.cluster.submit import Jobs
from codex_ray.errors import ClusterError, RunDirectoryError
from codex_ray.records.result import RunResult

KEY = X25519PrivateKey.generate()
READER = KEY.public_key().public_bytes_raw()


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, by its hash."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with something of everything."""
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: ä\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "checkpoint" / "empty").write_bytes(b"")
    return folder


def test_a_run_arrives_as_it_was_whatever_else_is_in_the_log(run: Path, tmp_path: Path) -> None:
    log = f"a warning\n{packed(run, READER)}\nanother\n"
    unpack(log, tmp_path / "there", KEY)
    assert contents(tmp_path / "there") == contents(run)
    # Others can read the log, and not the run.
    with pytest.raises(ClusterError, match="fetch it again"):
        unpack(log, tmp_path / "elsewhere", X25519PrivateKey.generate())


def test_a_log_that_is_cut_or_altered_is_refused(run: Path, tmp_path: Path) -> None:
    lines = packed(run, READER).splitlines()
    other = "A" if lines[2][0] != "A" else "B"
    for broken in (
        lines[:-1],
        [*lines[:3], *lines[4:]],
        [*lines[:2], other + lines[2][1:], *lines[3:]],
        [*lines[:2], "!" + lines[2][1:], *lines[3:]],
        ["nothing"],
    ):
        with pytest.raises(ClusterError, match="fetch it again"):
            unpack("\n".join(broken), tmp_path / "there", KEY)
    assert not (tmp_path / "there").exists()


def test_what_leads_out_of_the_directory_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(tar: tarfile.TarFile, *_: object, **__: object) -> None:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO(b""))

    monkeypatch.setattr(tarfile.TarFile, "add", add)
    log = packed(run, READER)
    with pytest.raises(ClusterError, match="what came is no run"):
        unpack(log, tmp_path / "there", KEY)
    assert not (tmp_path / "outside").exists()


def test_a_run_that_never_began_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="did its job begin"):
        packed(tmp_path / "gone", READER)


class Dashboard:
    """What a job's client asks: it keeps the jobs, and their logs end when it is said."""

    def __init__(self, *statuses: JobStatus, lines: tuple[str, ...] = ()) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.asked = 0
        self._statuses = list(statuses)
        self._lines = lines

    def submit_job(self, **job: Any) -> None:
        self.jobs.append(job)

    def get_job_status(self, name: str) -> JobStatus:
        self.asked += 1
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for line in self._lines:
            yield line
        await asyncio.Event().wait()  # for a line that is lost with the tunnel


@pytest.mark.parametrize("said", [False, True])
def test_what_was_said_of_an_open_cluster_is_said_to_the_job(said: bool, tmp_path: Path) -> None:
    """Its own preflight would refuse the cluster, and only its result tells what was overlooked."""
    (tmp_path / "some.yaml").touch()
    client = Dashboard()
    Jobs(client, "http://there", insecure_local=said).submit(tmp_path / "some.yaml", ["rounds=2"])
    (job,) = client.jobs
    assert "--set rounds=2 --set cluster.address=auto" in job["entrypoint"]
    assert ("--set cluster.insecure_local=true" in job["entrypoint"]) is said


def test_a_log_that_falls_silent_is_no_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is asked; when it has ended, what is still on its way gets one more chance."""
    monkeypatch.setattr(submitting, "QUIET", 0.01)
    client, said = Dashboard(JobStatus.RUNNING, JobStatus.SUCCEEDED, lines=("a", "b")), list[str]()
    assert Jobs(client, "http://there").follow("some", said.append)
    assert said == ["a", "b"] and client.asked == 3


def test_a_dashboard_that_falls_silent_is_no_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "ANSWER", 0.05)
    monkeypatch.setattr(submitting, "QUIET", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes calls, and says nothing
        client = object.__new__(submitting._Client)
        client._address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client._cookies = client._headers = None
        client._verify = client._ssl_context = True
        with pytest.raises(ClusterError, match=r"does not answer \(ReadTimeout\): look at"):
            Jobs(client, client._address).follow("some", print)


@pytest.fixture(scope="module")
def head() -> Iterator[RealHead]:
    """A head with a dashboard, closed by token and TLS."""
    with closed_head(dashboard=True) as one:
        yield one


def submit(head: RealHead, folder: Path, *words: str, **more: str) -> tuple[int, str]:
    """The exit status and the words of `codex-ray submit` to that head."""
    url = f"http://127.0.0.1:{head.dashboard}"
    said = ["submit", "--dashboard", url, *words]
    return asked(said, environment=head.environment() | more, folder=folder)


@pytest.mark.slow
def test_a_job_is_followed_and_its_run_is_what_it_wrote(
    head: RealHead, silos: dict[str, Any], tmp_path: Path
) -> None:
    config = silos | {"rounds": 2, "cluster": {"hosts": 2}}
    (tmp_path / "silos.yaml").write_text(yaml.safe_dump(config))
    status, words = submit(head, tmp_path, "silos.yaml", "--set", "seed=7", "--out", "here")
    assert status == 0, words
    assert "silos: 2 rounds in 2 Ray hosts" in words
    name = next(line for line in words.splitlines() if line.startswith("job ")).split()[1]
    there = head.folder / "codex_ray_runs" / name
    assert contents(tmp_path / "here") == contents(there)
    assert {"result.json", "model.safetensors", "config.yaml"} <= set(contents(there))
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["seed"] == 7
    assert there.stat().st_mode & 0o077 == 0
    assert head.token.read_text() not in words

    status, again = submit(head, tmp_path, "--attach", name, "--out", "again")
    assert status == 0, again
    assert contents(tmp_path / "again") == contents(there)
    # Ray keeps the log of the job that carried the run, for all to read: it is sealed.
    logs = list(head.folder.glob("ray/session_2*/logs/job-driver-*fetch*"))
    assert len(logs) == 2
    for log in logs:
        with pytest.raises(ClusterError):
            unpack(log.read_text(), tmp_path / "stolen", KEY)


@pytest.mark.slow
def test_a_job_that_fails_ends_with_1_and_says_why(
    head: RealHead, silos: dict[str, Any], tmp_path: Path
) -> None:
    config = silos | {"rounds": 2, "cluster": {"hosts": 2}}
    (tmp_path / "silos.yaml").write_text(yaml.safe_dump(config))
    status, words = submit(head, tmp_path, "silos.yaml", "--set", "rounds=none")
    assert status != 0 and "job " not in words
    status, words = submit(head, tmp_path, "silos.yaml", RAY_AUTH_TOKEN="0" * 64)
    assert status != 0 and "does not take our token" in words
    status, words = submit(head, tmp_path, "--attach", "no-such-job", "--out", "nothing")
    assert status != 0 and not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_job_on_an_open_cluster_runs_if_that_is_said_and_its_result_says_so(
    silos: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "silos.yaml").write_text(yaml.safe_dump(silos | {"cluster": {"hosts": 1}}))
    head = new_head(tls=False)
    head.demands = False
    try:
        head.start(dashboard=True)
        status, words = submit(head, tmp_path, "silos.yaml", "--out", "out")
        assert status != 0 and "runs anybody's jobs" in words and "job " not in words
        status, words = submit(head, tmp_path, "silos.yaml", "--out", "out", "--insecure-local")
        assert status == 0, words
    finally:
        head.end()
    result = RunResult.read(tmp_path / "out")
    assert any("there is no token" in problem for problem in result.overlooked)
    assert any("runs anybody's jobs" in problem for problem in result.overlooked)
