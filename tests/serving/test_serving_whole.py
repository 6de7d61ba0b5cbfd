"""The commands as processes: a run is registered, promoted, served, asked, and Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest
from test_serving_registry import RUN

import codex_ray
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry import Registry
from codex_ray.serving.key_file import KeyFile

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MAIN = "import sys; from codex_ray.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys, a certificate, and a registry in which version 1 is promoted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "keys"))
        key, _ = make_keys(folder / "keys")
        registry = Registry.create(folder / "models", key=key)
        codex_ray.run(RUN, out=folder / "run")
        registry.register(folder / "run", "tumour")
        registry.promote("tumour", 1)
    issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
    return folder


@pytest.mark.parametrize("how", [["--local"], []], ids=["one process", "Ray Serve"])
def test_from_the_registry_to_an_answer(home: Path, how: list[str], tmp_path: Path) -> None:
    files = NodeFiles.under(home / "node")
    keys = KeyFile(tmp_path / "access" / "keys.json")
    terms = {"roles": ("user",), "scopes": ("model:*",), "now": time.time(), "seconds": 600.0}
    key = keys.create("alice", **terms)[1]  # type: ignore[arg-type]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "tumour", "--registry", str(home / "models"), "--port", str(port), *how]
    words += ["--cert", str(files.certificate), "--key", str(files.key), "--keys", str(keys.path)]
    kept = {name: it for name, it in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        env=kept | {FOLDER_VARIABLE: str(home / "keys")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving"):
                break
        assert lines[-1:] and lines[-1].startswith("serving tumour at https://"), lines
        tls = ssl.create_default_context(cafile=str(files.authority))

        def ask(key: str) -> tuple[int, dict[str, object]]:
            request = urllib.request.Request(
                f"https://localhost:{port}/v1/predict",
                data=b'{"records": [[0.1, 0.2]]}',
                headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
            )
            for _ in range(50):
                try:
                    with urllib.request.urlopen(request, context=tls, timeout=10) as said:
                        return said.status, json.load(said)
                except HTTPError as refused:
                    return refused.code, json.load(refused)
                except OSError:
                    time.sleep(0.2)
            raise AssertionError("nobody answers")

        status, value = ask(key)
        assert (status, value["version"]) == (200, "1")
        assert ask("nonsense")[0] == 401
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
        assert key.partition(".")[2] not in "".join(lines) + rest
    finally:
        process.kill()
        process.wait()
