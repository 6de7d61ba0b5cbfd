"""TLS 1.3 and nothing older, in processes of Ray's that we do not start ourselves.

Serve's proxy hands uvicorn a certificate and a key, and has no word for versions; Python then also
speaks TLS 1.2. But every TLS context of OpenSSL begins with what its configuration file says, and
the processes of a Ray of our own inherit the environment that names that file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
def only_tls13() -> Iterator[None]:
    """Processes that are started inside speak TLS 1.3 only, as far as OpenSSL speaks for them."""
    before = os.environ.get(VARIABLE)
    with tempfile.TemporaryDirectory(prefix="codex-ray-tls-") as folder:
        file = Path(folder) / "openssl.cnf"
        file.write_text(_ONLY_1_3)
        os.environ[VARIABLE] = str(file)
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
