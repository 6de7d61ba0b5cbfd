"""An experiment as a job on a running cluster: its log is followed, its run directory fetched.

Only the dashboard's port is needed, which listens on the head's loopback: through a tunnel, such as
`ray dashboard cluster.yaml` or `kubectl port-forward`.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import requests
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ray.job_submission import JobStatus, JobSubmissionClient

from codex_ray.cluster.doors import demand
from codex_ray.cluster.packed_run import unpack
from codex_ray.cluster.preflight import check_dashboard
from codex_ray.cluster.strangers import Answer, knock_at_dashboard
from codex_ray.cluster.token import find_token
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.records.run_directory import RunDirectory

DASHBOARD: Final = "http://127.0.0.1:8265"
RUNS: Final = '"${CODEX_RAY_RUNS:-$HOME/codex_ray_runs}"'
"""Where runs are kept on the head, as its shell reads it."""
FETCHING: Final = 300.0
"""Seconds that the job which hands a run over may take."""
ANSWER: Final = 60.0
"""Seconds that the dashboard may leave a request without a byte of an answer."""
QUIET: Final = 30.0
"""Seconds without a line after which the job is asked whether it still runs."""


class _Client(JobSubmissionClient):  # type: ignore[misc]  # to mypy it is Any
    """Ray's own, but that it waits for no answer for ever: a tunnel may be gone without a word."""

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, **{"timeout": ANSWER} | more)
        except requests.RequestException as error:
            raise ClusterError(
                f"{self._address}: the dashboard does not answer ({type(error).__name__}): look at "
                "the tunnel; a job goes on without it: codex-ray submit --attach JOB"
            ) from error


@dataclass(frozen=True)
class Jobs:
    """The jobs of one cluster.

    Attributes:
        client: that speaks with its dashboard.
        address: of the dashboard.
        overlooked: what is open about it, where somebody said that it may be.
        insecure_local: whether that was said: then it is said to the jobs too, who look for
            themselves, and their results tell what they overlooked.
    """

    client: Any
    address: str
    overlooked: tuple[str, ...] = ()
    insecure_local: bool = False

    @classmethod
    def at(cls, address: str, *, insecure_local: bool = False) -> Jobs:
        """Those of the cluster whose dashboard is at `address`.

        Raises:
            ClusterError: nobody answers, or it does not take our token, or it is open to strangers
                and nobody said that it may be.
        """
        found = check_dashboard(address, insecure_local=insecure_local)
        token = find_token()
        answer = knock_at_dashboard(address, token=token)
        if answer is Answer.TOKEN:
            raise ClusterError(
                f"{address}: it does not take our token: use the file that the head was started "
                "with (RAY_AUTH_TOKEN_PATH)"
            )
        if answer is Answer.NOBODY:
            raise ClusterError(
                f"{address}: nobody answers there: open a tunnel to the head's dashboard, such as "
                "ray dashboard cluster.yaml"
            )
        bearer = {} if token is None else {"Authorization": f"Bearer {token.secret}"}
        demand("disabled" if token is None else "token")  # Ray's client refuses to go without
        try:
            client = _Client(address, headers=bearer)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(f"{address}: {error}") from error
        return cls(client, address, tuple(found), insecure_local)

    def submit(self, file: Path, overrides: Sequence[str], *, folder: Path | None = None) -> str:
        """The name of a new job that runs the experiment in `file`.

        Args:
            file: the YAML.
            overrides: KEY=VALUE, as for `codex-ray run --set`.
            folder: what goes along, but for what its .rayignore names; None: only the file.

        Raises:
            ConfigError: the file is not in the folder.
        """
        name = f"codex-ray-{secrets.token_hex(6)}"
        with tempfile.TemporaryDirectory() as alone:
            if folder is None:
                shutil.copy(file, alone)
                inside = Path(file.name)
            elif file.resolve().is_relative_to(folder.resolve()):
                inside = file.resolve().relative_to(folder.resolve())
            else:
                raise ConfigError(f"{file}: is not in {folder}, which is what the job gets")
            settings = [*overrides, "cluster.address=auto"]
            if self.insecure_local:
                settings.append("cluster.insecure_local=true")
            words = " ".join(f"--set {shlex.quote(one)}" for one in settings)
            out = f"{RUNS}/{name}"
            command = f"codex-ray run {shlex.quote(str(inside))} {words} --out {out}"
            self._submit(name, f"umask 077; mkdir -p {RUNS} && {command}", folder or Path(alone))
        return name

    def follow(self, name: str, say: Callable[[str], None]) -> bool:
        """Whether the job succeeded, once it has ended; what it prints is said meanwhile.

        Raises:
            ClusterError: there is no such job, or nobody answers any more.
        """
        try:
            asyncio.run(self._tail(name, say))
        except (RuntimeError, aiohttp.ClientError) as error:
            raise ClusterError(f"{name}: {error}") from None
        return self._ended(name) == JobStatus.SUCCEEDED

    def fetch(self, name: str, out: Path) -> None:
        """Writes the run directory of a job into `out`.

        Raises:
            RunDirectoryError: there is something in `out`.
            ClusterError: the run is not there, or did not arrive whole.
        """
        RunDirectory.check_free(out)
        carrier = f"{name}-fetch-{secrets.token_hex(4)}"
        key = X25519PrivateKey.generate()
        reader = key.public_key().public_bytes_raw().hex()
        command = f"python -m codex_ray.cluster.packed_run {RUNS}/{shlex.quote(name)} {reader}"
        self._submit(carrier, command, None)
        try:
            status = self._ended(carrier, patience=FETCHING)
            log = str(self.client.get_job_logs(carrier))
            if status != JobStatus.SUCCEEDED:
                last = (log.strip().splitlines() or ["it said nothing"])[-1]
                raise ClusterError(f"{name}: its run cannot be fetched: {last}")
            unpack(log, out, key)
        finally:
            if self.client.get_job_status(carrier).is_terminal():
                self.client.delete_job(carrier)

    def _submit(self, name: str, command: str, folder: Path | None) -> None:
        with_it = None if folder is None else {"working_dir": str(folder)}
        try:
            self.client.submit_job(entrypoint=command, submission_id=name, runtime_env=with_it)
        except (RuntimeError, ConnectionError) as error:
            raise ClusterError(f"{self.address}: the job was not taken: {error}") from error

    async def _tail(self, name: str, say: Callable[[str], None]) -> None:
        """Says what comes; where nothing does, it is asked whether anybody is there to say it."""
        log, ended = aiter(self.client.tail_job_logs(name)), False
        while True:
            coming = asyncio.ensure_future(anext(log))
            try:
                while not (await asyncio.wait({coming}, timeout=QUIET))[0]:
                    if ended:  # it was the time before too: its last lines are lost on the way
                        return
                    status = await asyncio.to_thread(self.client.get_job_status, name)
                    ended = status.is_terminal()
                say(coming.result())
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()

    def _ended(self, name: str, *, patience: float = 60.0) -> JobStatus:
        """How a job has ended, which may be known a moment after its last line."""
        expires = time.monotonic() + patience
        while True:
            status = self.client.get_job_status(name)
            if status.is_terminal():
                return status
            if time.monotonic() > expires:
                raise ClusterError(
                    f"{name}: still {status.value.lower()}: codex-ray submit --attach {name}"
                )
            time.sleep(0.2)
