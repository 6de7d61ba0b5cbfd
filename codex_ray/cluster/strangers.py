"""What a Ray cluster says to whoever knocks: asked, before anything of ours is sent there.

Ray waits for 20 s where a token is wrong and for minutes where TLS does not match. A knock is
answered in milliseconds, and tells an open door from a closed one.
"""

from __future__ import annotations

import socket
import ssl
from enum import Enum
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it has no types
import requests

from codex_ray.cluster.certificates import NodeFiles
from codex_ray.cluster.token import Token

PATIENCE: Final = 10.0
"""Seconds that an answer may take."""
GCS_METHOD: Final = "/ray.rpc.JobInfoGcsService/GetAllJobInfo"
"""Something of the GCS that an empty message asks for, and that changes nothing."""
NODE_METHOD: Final = "/ray.rpc.NodeManagerService/GetNodeStats"
"""The same of every node."""
CLIENT_METHOD: Final = "/ray.rpc.RayletDriver/ClusterInfo"
"""The same of the server behind ray://."""


class Answer(Enum):
    """What came of a knock."""

    WELCOME = "let in"
    TOKEN = "a token is demanded"
    CERTIFICATE = "TLS with a certificate is demanded"
    PLAIN = "no TLS is spoken"
    NOBODY = "nobody answers"


def knock(
    host: str,
    port: int,
    *,
    token: Token | None = None,
    files: NodeFiles | None = None,
    method: str = GCS_METHOD,
) -> Answer:
    """What the gRPC server of a cluster says to somebody who has this token and these files.

    Args:
        host: its address.
        port: of the GCS, or of the server behind ray:// with its `method`.
        token: None: a stranger's knock.
        files: for TLS; None knocks in the clear.
        method: what is asked for, with an empty message.
    """
    try:
        tls = _speaks_tls(host, port)
    except OSError:
        return Answer.NOBODY
    if tls != (files is not None):
        return Answer.CERTIFICATE if tls else Answer.PLAIN
    with _channel(f"{_bracketed(host)}:{port}", files) as channel:
        bearer = () if token is None else (("authorization", f"Bearer {token.secret}"),)
        try:
            channel.unary_unary(method)(b"", timeout=PATIENCE, metadata=bearer)
        except grpc.RpcError as error:
            return _meant(error.code(), tls=tls)
    return Answer.WELCOME


def knock_at_dashboard(url: str, *, token: Token | None = None) -> Answer:
    """What the dashboard says to a request for the list of jobs, which who may read may also run.

    Args:
        url: such as http://127.0.0.1:8265.
        token: None: a stranger's request.
    """
    bearer = {} if token is None else {"Authorization": f"Bearer {token.secret}"}
    try:
        status = requests.get(f"{url}/api/jobs/", headers=bearer, timeout=PATIENCE).status_code
    except requests.RequestException:
        return Answer.NOBODY
    return Answer.TOKEN if status in (401, 403) else Answer.WELCOME


def reachable(host: str, port: int) -> bool:
    """Whether anything listens at a port that a firewall may stand before."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def _meant(code: Any, *, tls: bool) -> Answer:
    """What a refusal means: a server that only finds fault with the message has let us in."""
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Answer.TOKEN
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        # Under TLS somebody does answer: it is our certificate that was not taken.
        return Answer.CERTIFICATE if tls else Answer.NOBODY
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Answer.NOBODY  # some other server, which tells nothing of the one that was meant
    return Answer.WELCOME


def _speaks_tls(host: str, port: int) -> bool:
    """Whether a server begins with TLS.

    Raises:
        OSError: nobody listens there.
    """
    context = ssl.create_default_context()
    # Who it is does not matter yet, only how it speaks: nothing is said to it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout=PATIENCE) as plain:
        try:
            with context.wrap_socket(plain):
                return True
        except (ssl.SSLError, OSError):
            return False


def _channel(address: str, files: NodeFiles | None) -> Any:
    if files is None:
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=files.authority.read_bytes(),
        private_key=files.key.read_bytes(),
        certificate_chain=files.certificate.read_bytes(),
    )
    return grpc.secure_channel(address, credentials)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
