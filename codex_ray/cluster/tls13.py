"""TLS 1.3 and nothing older, in processes of Ray's that we do not start ourselves.

Serve's proxy hands uvicorn a certificate and a key, and has no word for versions; Python then also
speaks TLS 1.2. But every TLS context of OpenSSL begins with what its configuration file says, and
the processes of a Ray of our own inherit the environment that names that file.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from codex_ray.cluster.inherited import environment
from codex_ray.errors import ClusterError

VARIABLE = "OPENSSL_CONF"
_ONLY_1_3 = """\
openssl_conf = codex_ray
[codex_ray]
ssl_conf = ssl
[ssl]
system_default = contexts
[contexts]
Protocol = -TLSv1.2,-TLSv1.1,-TLSv1
"""


@contextmanager
def only_tls13() -> Iterator[dict[str, str]]:
    """Processes that are started inside speak TLS 1.3 only, as far as OpenSSL speaks for them.

    Yields the variable that makes them do so, for those on other machines that have the file too.
    """
    with TemporaryDirectory(prefix="codex-ray-tls-") as folder:
        file = Path(folder) / "openssl.cnf"
        file.write_text(_ONLY_1_3)
        variables = {VARIABLE: str(file)}
        with environment(variables):
            yield variables


def check_tls13(host: str, port: int, *, patience: float = 10.0) -> None:
    """Refuses a server that speaks TLS 1.2, by asking it to.

    OpenSSL passes over a configuration file that is not there, as on a head node that is another
    machine than this one, and says nothing.

    Raises:
        ClusterError: it does, or nobody can tell from here.
    """
    until = time.monotonic() + patience
    while True:
        try:
            older = _speaks_tls12(host, port)
            break
        except OSError as error:
            if time.monotonic() >= until:
                raise ClusterError(
                    f"{host}:{port}: cannot be asked whether it refuses TLS 1.2: "
                    f"{error.strerror or error}: serve from a machine that reaches it"
                ) from None
            time.sleep(0.2)
    if older:
        raise ClusterError(
            f"{host}:{port}: speaks TLS 1.2, for its machine has not the file that forbids it: "
            "start serve on the head node, or put a proxy in front (docs/serving.md)"
        )


def _speaks_tls12(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent to it
    # What forbids the server to speak it may forbid us to, and would make us believe too much.
    context.options &= ~ssl.OP_NO_TLSv1_2
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, port), timeout=5.0) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host):
                return True
        except (ssl.SSLError, ConnectionError, EOFError):
            return False
