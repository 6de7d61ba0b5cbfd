"""A real head, closed by token and TLS: whoever lacks one of them is refused at every door.

Each refusal has its counterpart that is let in, so that a head that refuses everybody fails too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it has no types
import pytest
import requests
from real_head import RealHead, asked, closed_head, family, listening

import codex_ray
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.preflight import check_dashboard, check_joining
from codex_ray.cluster.strangers import (
    CLIENT_METHOD,
    GCS_METHOD,
    Answer,
    knock,
    knock_at_dashboard,
)
from codex_ray.cluster.token import Token, read_token
from codex_ray.config import experiment_from, to_yaml
from codex_ray.errors import ClusterError
from codex_ray.records.result import RunResult

WRONG = Token("nowhere", "0" * 64)
DRIVER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("answer", ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RealHead]:
    """One head for the file."""
    with closed_head(dashboard=True) as one:
        yield one


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> NodeFiles:
    """Files in perfect order, of an authority that the cluster has never heard of."""
    folder = tmp_path_factory.mktemp("foreign")
    return issue(make_authority(folder / "ca"), folder / "node", names=["127.0.0.1"])


def token_of(head: RealHead) -> Token:
    return read_token(head.token)


def test_http_without_a_token_or_with_a_wrong_one_is_refused(head: RealHead) -> None:
    url = f"http://127.0.0.1:{head.dashboard}"
    ways = {None: 401, WRONG.secret: 403, token_of(head).secret: 200}
    for secret, status in ways.items():
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        for path in ("/api/version", "/api/jobs/", "/nodes?view=summary"):
            answer = requests.get(url + path, headers=headers, timeout=30)
            assert answer.status_code == status, f"{path} with {secret}"
    job = {"entrypoint": "true"}
    assert requests.post(f"{url}/api/jobs/", json=job, timeout=30).status_code == 401
    assert knock_at_dashboard(url) is Answer.TOKEN
    assert knock_at_dashboard(url, token=WRONG) is Answer.TOKEN
    assert knock_at_dashboard(url, token=token_of(head)) is Answer.WELCOME


def test_plaintext_grpc_is_refused_even_with_the_token(head: RealHead) -> None:
    """A call in the clear gets nowhere, and we send none: a knock looks for TLS first."""
    bearer = (("authorization", f"Bearer {token_of(head).secret}"),)
    for port, method in ((head.port, GCS_METHOD), (head.client, CLIENT_METHOD)):
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            pytest.raises(grpc.RpcError) as refused,
        ):
            channel.unary_unary(method)(b"", timeout=30, metadata=bearer)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, refused.value
        right = knock("127.0.0.1", port, token=token_of(head), files=head.files, method=method)
        assert right is Answer.WELCOME
        knocked = knock("127.0.0.1", port, token=token_of(head), method=method)
        assert knocked is Answer.CERTIFICATE


def test_grpc_with_a_certificate_of_another_authority_is_refused(
    head: RealHead, foreign: NodeFiles
) -> None:
    assert head.files is not None
    # It trusts the cluster; the cluster does not trust it.
    files = NodeFiles(foreign.certificate, foreign.key, head.files.authority)
    knocked = knock("127.0.0.1", head.port, token=token_of(head), files=files)
    assert knocked is Answer.CERTIFICATE
    welcome = knock("127.0.0.1", head.port, token=token_of(head), files=head.files)
    assert welcome is Answer.WELCOME


def test_we_refuse_a_cluster_whose_certificate_is_of_another_authority(
    head: RealHead, foreign: NodeFiles
) -> None:
    assert head.files is not None
    files = NodeFiles(head.files.certificate, head.files.key, foreign.authority)
    knocked = knock("127.0.0.1", head.port, token=token_of(head), files=files)
    assert knocked is Answer.CERTIFICATE


def test_grpc_with_a_certificate_but_no_token_or_a_wrong_one_is_refused(head: RealHead) -> None:
    for port, method in ((head.port, None), (head.client, CLIENT_METHOD)):
        extra = {} if method is None else {"method": method}
        for token in (None, WRONG):
            knocked = knock("127.0.0.1", port, token=token, files=head.files, **extra)
            assert knocked is Answer.TOKEN
        right = knock("127.0.0.1", port, token=token_of(head), files=head.files, **extra)
        assert right is Answer.WELCOME


def test_every_port_of_the_head_is_closed_but_for_metrics_and_all_are_on_loopback(
    head: RealHead,
) -> None:
    found = listening(family(head.mark))
    assert {address for address, _ in found} == {"127.0.0.1"}
    grpc_ports = {port for _, port in found if knock("127.0.0.1", port) is Answer.CERTIFICATE}
    assert {head.port, head.client} < grpc_ports
    assert len(grpc_ports) >= 5  # raylet, object manager and agent too
    answers = {port: _http(port) for _, port in found if port not in grpc_ports}
    spoken = {port: answer for port, answer in answers.items() if answer is not None}
    assert spoken[head.dashboard].status_code == 401
    # What no token covers, as docs/security.md says: metrics, and nothing else.
    free = [answer for answer in spoken.values() if answer.status_code != 401]
    assert free and all(answer.text.startswith("# HELP") for answer in free)


def _http(port: int) -> requests.Response | None:
    """What a port answers a stranger who asks for metrics; None if it speaks no HTTP."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    except requests.RequestException:
        return None


def test_the_preflight_lets_us_in_and_says_at_once_which_key_is_wrong(
    head: RealHead, foreign: NodeFiles, tmp_path: Path
) -> None:
    ours = head.environment()
    assert check_joining(head.address, insecure_local=False, environment=ours) == []
    client = f"ray://127.0.0.1:{head.client}"
    assert check_joining(client, insecure_local=False, environment=ours) == []
    url = f"127.0.0.1:{head.dashboard}"
    assert check_dashboard(url, insecure_local=False, environment=ours) == []
    plain = {key: value for key, value in ours.items() if "TLS" not in key}
    for environment, words in (
        (ours | {"RAY_AUTH_TOKEN": WRONG.secret}, "does not take our token"),
        (ours | foreign.environment, "does not take our certificate"),
        (plain, "does not take our certificate"),
    ):
        with pytest.raises(ClusterError, match=words):
            check_joining(head.address, insecure_local=True, environment=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": WRONG.secret}],
    ids=["no token", "wrong token"],
)
def test_a_driver_without_the_token_is_refused(head: RealHead, change: dict[str, str]) -> None:
    status, words = _driver(head, head.environment() | change)
    assert status != 0 and "answer" not in words
    assert "ConnectionError" in words or "AuthenticationError" in words


@pytest.mark.slow
def test_a_driver_in_the_clear_or_of_another_authority_is_refused(
    head: RealHead, foreign: NodeFiles
) -> None:
    """It waits for more than a minute before Ray gives up; that it never gets in is the point."""
    ours = head.environment()
    plain = {key: value for key, value in ours.items() if "TLS" not in key}
    for environment in (plain, ours | foreign.environment):
        status, words = _driver(head, environment, patience=40)
        assert status != 0 and "answer" not in words


@pytest.mark.slow
def test_a_driver_with_both_is_let_in(head: RealHead) -> None:
    status, words = _driver(head, head.environment())
    assert (status, "answer 42" in words) == (0, True), words


@pytest.mark.slow
def test_a_run_through_a_client_is_done_there_and_comes_home(
    head: RealHead, silos: dict[str, Any], tmp_path: Path
) -> None:
    """The same model as here, from a terminal that is no node of the cluster."""
    here = codex_ray.run(silos, out=tmp_path / "here")
    file, out = tmp_path / "experiment.yaml", tmp_path / "out"
    file.write_text(to_yaml(experiment_from(silos)))
    words = ["run", str(file), "--address", f"ray://127.0.0.1:{head.client}", "--out", str(out)]
    there = {"environment": head.environment(), "folder": tmp_path}
    status, said = asked([*words, "--set", "cluster.hosts=2"], **there)
    assert status == 0, said
    assert RunResult.read(out).model_sha256 == here.model_sha256
    status, said = asked([*words, "--set", "cluster.hosts=2"], **there)
    assert status == 2 and "holds another run" in said


def _driver(
    head: RealHead, environment: dict[str, str], *, patience: float = 120
) -> tuple[int, str]:
    """How a driver ends, and what it said; -1 when its patience ends first."""
    command = [sys.executable, "-c", DRIVER, head.address]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return -1, str(error.stdout) + str(error.stderr)
    return done.returncode, done.stdout + done.stderr
