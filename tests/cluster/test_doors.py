"""A Ray of our own is closed by itself: loopback, a token of its own, files for one user."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from real_head import MARK

from codex_ray.cluster import doors
from codex_ray.errors import ClusterError, InputError

SCRIPT = """
import json, os, sys
from pathlib import Path
from ray._private import parameter, services, utils
given = parameter.RayParams, services.start_api_server, utils.get_dashboard_dependency_error
from codex_ray.cluster.doors import own_ray
from real_head import MARK, family, listening
import ray
before = dict(os.environ)
found = {"tokens": []}
for _ in range(2):
    with own_ray() as overlooked:
        @ray.remote
        class Actor:
            def token(self):
                return os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
            def inline(self):
                from codex_ray.cluster.inherited import inline_bytes
                return inline_bytes()
        actor = Actor.remote()
        mode, token = ray.get(actor.token.remote())
        found["inline"] = ray.get(actor.inline.remote())
        found["tokens"].append(token)
        found["mode"], found["overlooked"] = mode, overlooked
        node = ray.nodes()[0]
        found["socket"] = node["ObjectStoreSocketName"]
        children = [p for p in family(os.environ[MARK]) if p != os.getpid()]
        found["listening"] = sorted({address for address, _ in listening(children)})
        found["ports"] = len(listening(children))
        lines = [Path(f"/proc/{child}/cmdline").read_bytes().decode() for child in children]
        asked = ("dashboard.py", "monitor.py")
        found["unasked"] = [line for line in lines if any(name in line for name in asked)]
        from codex_ray.cluster.strangers import NODE_METHOD, knock
        found["stranger"] = knock("127.0.0.1", node["NodeManagerPort"], method=NODE_METHOD).name
names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
         "RAY_max_direct_call_object_size")
found["restored"] = all(os.environ.get(name) == before.get(name) for name in names)
found["restored"] &= given == (
    parameter.RayParams, services.start_api_server, utils.get_dashboard_dependency_error
)
print("FOUND" + json.dumps(found))
"""


@pytest.mark.slow
def test_a_ray_of_our_own_is_closed_without_being_asked() -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        # The user's own token is there, and is not the one that is used.
        env=kept
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "u" * 64,
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: secrets.token_hex(8),
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "FOUND" in done.stdout, done.stdout + done.stderr
    found = json.loads(done.stdout.split("FOUND")[1])
    assert found["mode"] == "token" and found["overlooked"] == []
    first, second = found["tokens"]
    assert first != second and "u" * 64 not in (first, second) and len(first) == 64
    assert found["listening"] == ["127.0.0.1"] and found["ports"] >= 6
    assert found["stranger"] == "TOKEN"
    assert found["unasked"] == []  # no process that nobody here asks, and no door of its
    assert found["inline"] == doors.INLINE
    assert found["restored"]
    folder = Path(doors.session_folder()).parent
    assert Path(found["socket"]).is_relative_to(folder)
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_somebody_else_could_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp") / f"cr{os.getpid()}"
    short.mkdir(mode=0o700)
    try:
        monkeypatch.setattr(doors.tempfile, "gettempdir", lambda: str(short))
        assert doors.session_folder() == str(short / f"codex-ray-{os.getuid()}" / "ray")
        (short / f"codex-ray-{os.getuid()}").chmod(0o755)
        with pytest.raises(InputError, match="is open to others"):
            doors.session_folder()
        (short / f"codex-ray-{os.getuid()}").rmdir()
    finally:
        short.rmdir()
    monkeypatch.setattr(doors.tempfile, "gettempdir", lambda: "/tmp/" + "x" * 60)
    assert doors.session_folder() == f"/tmp/codex-ray-{os.getuid()}/ray"


def test_nothing_is_started_where_the_mode_was_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE is disabled"), doors.own_ray():
        pytest.fail("it was started")
