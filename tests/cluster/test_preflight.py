"""An open cluster is neither joined nor started, unless somebody says so; then it is recorded."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from real_head import RealHead, free_port, new_head

from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.preflight import (
    allowed,
    check_dashboard,
    check_joining,
    check_own,
    keys_from,
)
from codex_ray.cluster.token import make_token
from codex_ray.errors import ClusterError


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a token and TLS, in order."""
    monkeypatch.setenv("HOME", str(tmp_path))
    token = make_token(tmp_path / "token")
    files = issue(make_authority(tmp_path / "ca"), tmp_path / "node", names=["10.0.0.1"])
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token.where}
    return mine | files.environment


def test_keys_in_order_are_no_problem(closed: dict[str, str]) -> None:
    keys = keys_from(closed)
    assert keys.problems == () and keys.token is not None
    assert keys.files == NodeFiles.named_by(closed)
    # Ray would not read the mode as anything but token where it is unset: see cluster/__init__.
    assert keys_from({k: v for k, v in closed.items() if k != "RAY_AUTH_MODE"}).problems == ()


def test_each_way_to_be_open_is_named(closed: dict[str, str]) -> None:
    without = {k: v for k, v in closed.items() if "TOKEN" not in k}
    half = {k: v for k, v in closed.items() if k != "RAY_TLS_SERVER_KEY"}
    gone = closed | {"RAY_TLS_CA_CERT": "/nowhere/ca.pem"}
    late = datetime.now(UTC) + timedelta(days=31)
    for environment, now, version, words in (
        (without, None, None, "there is no token: make one with codex-ray token"),
        (closed | {"RAY_AUTH_MODE": "disabled"}, None, None, "RAY_AUTH_MODE is disabled"),
        (closed | {"RAY_AUTH_TOKEN": "letmein"}, None, None, "can be guessed"),
        (half, None, None, "TLS is half set"),
        (gone, None, None, "/nowhere/ca.pem: cannot be read"),
        (closed, late, None, "not now: issue another"),
        (closed, None, "2.58.3", "Ray 2.58.3 is old"),
        (closed, None, "2.9", "Ray 2.9 is old"),
    ):
        problems = keys_from(environment, now=now, ray_version=version).problems
        assert len(problems) == 1 and words in problems[0], (words, problems)
    Path(closed["RAY_AUTH_TOKEN_PATH"]).chmod(0o644)
    assert "others may read it: chmod 600" in keys_from(closed).problems[0]


def test_problems_stop_unless_it_is_said_and_then_they_are_handed_on() -> None:
    assert allowed([], insecure_local=False) == []
    assert allowed(["open"], insecure_local=True) == ["open"]
    with pytest.raises(ClusterError, match=r"open .*--insecure-local goes on"):
        allowed(["open"], insecure_local=False)


def test_a_ray_of_our_own_needs_no_token_but_is_not_started_open(tmp_path: Path) -> None:
    assert check_own(insecure_local=False, environment={"HOME": str(tmp_path)}) == []
    disabled = {"RAY_AUTH_MODE": "disabled"}
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE is disabled"):
        check_own(insecure_local=False, environment=disabled)
    assert len(check_own(insecure_local=True, environment=disabled)) == 1


def test_without_keys_nobody_is_asked_and_with_them_nobody_answers(closed: dict[str, str]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match="there is no token"):
        check_joining(nobody, insecure_local=False, environment={"HOME": "/nowhere"})
    with pytest.raises(ClusterError, match="nobody answers there"):
        check_joining(nobody, insecure_local=False, environment=closed)
    with pytest.raises(ClusterError, match="is no host:port"):
        check_joining("somewhere", insecure_local=False, environment=closed)


@contextmanager
def dashboard(status: int) -> Iterator[str]:
    """An HTTP server on loopback that answers every request with one status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_dashboard_is_closed_to_strangers_and_to_other_machines() -> None:
    assert check_dashboard("", insecure_local=False) == []
    with dashboard(401) as url:
        assert check_dashboard(url, insecure_local=False, environment={}) == []
    with dashboard(200) as url:
        with pytest.raises(ClusterError, match="runs anybody's jobs"):
            check_dashboard(url, insecure_local=False, environment={})
        # A network policy does not make up for a missing token.
        with pytest.raises(ClusterError, match="runs anybody's jobs"):
            check_dashboard(
                url, insecure_local=False, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
            )
    public = "192.0.2.1:1"  # an address of no machine (RFC 5737)
    assert "listens to other machines" in _public(public, {})[0]
    assert _public(public, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == []


def _public(url: str, environment: dict[str, str]) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codex_ray.cluster.strangers.PATIENCE", 0.2)
        return check_dashboard(url, insecure_local=True, environment=environment)


JOIN = """
import sys
from codex_ray.cluster.doors import joined_ray
from codex_ray.errors import ClusterError
import ray
try:
    with joined_ray(sys.argv[1], insecure_local=sys.argv[2] == "said") as overlooked:
        print("in", len(ray.nodes()), *overlooked, sep="|")
except ClusterError as error:
    print("out", error, sep="|")
"""


JOINED_BEFORE = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
from codex_ray.cluster.session import ray_session
from codex_ray.errors import ClusterError
try:
    with ray_session("auto", insecure_local=sys.argv[2] == "said") as overlooked:
        print("in", *overlooked, sep="|")
except ClusterError as error:
    print("out", error, sep="|")
"""


@pytest.fixture(scope="module")
def open_head() -> Iterator[RealHead]:
    """A head as `ray start` leaves it where nobody asked for a token."""
    one = new_head(tls=False)
    one.demands = False
    try:
        one.start(dashboard=False)
        yield one
    finally:
        one.end()


@pytest.mark.slow
def test_an_open_head_is_joined_only_if_it_is_said(open_head: RealHead) -> None:
    for environment, said, words in (
        (open_head.environment(), "", "out|there is no token"),
        (open_head.environment(), "said", "in|1|there is no token"),
        (_with_token(open_head), "", "demands no token: start every node with"),
        (_with_token(open_head), "said", f"in|1|{open_head.address} demands no token"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", JOIN, open_head.address, said],
            env=environment | {"RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert words in done.stdout, (said, done.stdout, done.stderr[-500:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "words"), [("", "out|RAY_AUTH_MODE is"), ("said", "in|RAY_AUTH_MODE is disabled")]
)
def test_an_open_head_that_the_caller_has_joined_is_refused_too(
    open_head: RealHead, said: str, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOINED_BEFORE, open_head.address, said],
        env=open_head.environment() | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert words in done.stdout, (said, done.stdout, done.stderr[-500:])


def _with_token(head: RealHead) -> dict[str, str]:
    return head.environment() | {"RAY_AUTH_TOKEN_PATH": str(head.token)}
