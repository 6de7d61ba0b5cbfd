"""`codex-ray access` and `codex-ray serve`, as a person types them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codex_ray.cli.access import add_access, seconds_in
from codex_ray.cli.listening import listening_of
from codex_ray.cli.serve import _settings, _source, add_serve
from codex_ray.errors import ConfigError, InputError
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.serving.inputs import read_inputs
from codex_ray.serving.tokens import TokenReader


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="codex-ray")
    commands = parser.add_subparsers(required=True)
    add_access(commands)
    add_serve(commands)
    return parser.parse_args(words)


def command(*words: str) -> int:
    arguments = parsed(*words)
    return int(arguments.command(arguments))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_a_key_from_its_making_to_its_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("access", "key", "list") == 0
    assert "no keys" in capsys.readouterr().out
    command("access", "key", "create", "alice", "--budget", "500", "--days", "30")
    shown, note = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"crk_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", shown)
    assert "shown this once" in note
    identity = shown[4:20]
    command("access", "key", "rotate", identity, "--overlap", "2h")
    new = capsys.readouterr().out.splitlines()[0]
    assert new != shown
    command("access", "key", "revoke", new[4:20])
    capsys.readouterr()
    command("access", "key", "list")
    old_line, new_line = capsys.readouterr().out.splitlines()
    assert "active" in old_line and f"replaced by {new[4:20]}" in old_line
    assert "revoked" in new_line and "500 records" in new_line
    assert shown.partition(".")[2] not in (home / "access.json").read_text()
    with pytest.raises(InputError, match="holds no key"):
        command("access", "key", "revoke", "0" * 16)


def test_a_token_is_believed_by_a_server_of_that_audience(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="keys init"):
        command("access", "token", "carol", "--audience", "heart")
    key, _ = make_keys(home)
    command("access", "token", "carol", "--audience", "heart", "--for", "15m")
    token = capsys.readouterr().out.strip()
    import time

    caller = TokenReader([key.public], audience="heart").holder(token, time.time())
    name = f"token:{key.public.fingerprint[7:15]}:carol"
    assert (caller.id, caller.scopes) == (name, ("model:Predict",))
    with pytest.raises(InputError, match="a day"):
        command("access", "token", "carol", "--audience", "heart", "--for", "2d")


def test_a_policy_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("access", "check", "model:Predict", "--role", "user") == 0
    assert command("access", "check", "model:PutObject", "--role", "admin") == 1
    assert capsys.readouterr().out.splitlines() == [
        "allowed by UsersAsk",
        "denied by NobodyWrites",
    ]
    file = tmp_path / "policy.yaml"
    file.write_text("Statement:\n- Effect: Allow\n  Action: model:*\n  Role: user\n")
    with pytest.raises(ConfigError, match=r"policy.yaml: statement 1: Role"):
        command("access", "check", "model:Predict", "--role", "user", "--policy", str(file))


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86400), ("7d", 604800), ("0s", 0)]
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_in(text, option="--for") == seconds


@pytest.mark.parametrize("text", ["", "30", "h", "-1h", "nan s", "infs", "1w"])
def test_no_times(text: str) -> None:
    with pytest.raises(InputError, match="--for"):
        seconds_in(text, option="--for")


def test_without_a_certificate_it_says_how_to_make_one() -> None:
    with pytest.raises(InputError, match="codex-ray certs issue"):
        command("serve", "heart")
    with pytest.raises(InputError, match="go together"):
        command("serve", "heart", "--cert", "x.pem")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    words = ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    with pytest.raises(InputError, match="chmod 600"):
        command("serve", "heart", *words)
    (tmp_path / "key.pem").chmod(0o600)
    with pytest.raises(InputError, match="cannot be used for TLS"):
        command("serve", "heart", *words)


@pytest.mark.parametrize(
    "words",
    [
        ["--rate", "0"],
        ["--ongoing", "0"],
        ["--port", "70000"],
        ["--decimals", "-1"],
        ["--body-bytes", "99999999999"],
        ["--batch-ms", "nan"],
        ["--proxies", "-1"],
    ],
)
def test_numbers_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[0]):
        command("serve", "heart", "--insecure-http", *words)


@pytest.mark.parametrize("model", ["", "@3", "heart@", "heart@x", "heart@-1", "heart@\u0663"])
def test_models_that_are_none(model: str) -> None:
    with pytest.raises(InputError, match="NAME@VERSION"):
        command("serve", model, "--insecure-http")


def test_a_registry_that_is_not_there(home: Path, tmp_path: Path) -> None:
    make_keys(home)
    with pytest.raises(InputError, match="registry"):
        command("serve", "heart@1", "--local", "--insecure-http", "--registry", str(tmp_path / "x"))


def test_unsafe_switches_are_named() -> None:
    words = ("serve", "heart", "--insecure-http", "--allow-uncertified", "--insecure-local")
    assert _settings(parsed(*words)).unsafe == (
        "insecure_http",
        "allow_uncertified",
        "insecure_local",
    )
    assert _settings(parsed("serve", "heart")).unsafe == ()


def test_a_version_is_pinned_by_its_number(home: Path) -> None:
    make_keys(home)
    assert _source(parsed("serve", "heart@3")).version == 3
    assert _source(parsed("serve", "heart")).version is None
    assert _source(parsed("serve", "heart", "--input-shape", "1,28,28")).input_shape == (1, 28, 28)


def test_a_file_of_inputs(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    one = {"name": "age", "low": 0, "high": 120, "kind": "integer", "centre": 54.4, "scale": 9.0}
    file.write_text(json.dumps({"inputs": [one], "labels": ["well", "ill"]}))
    assert read_inputs(file).inputs[0].centre == 54.4
    for change in ({"low": 200}, {"scale": 0}, {"mean": 3}, {"kind": "text"}, {"high": "NaN"}):
        file.write_text(json.dumps({"inputs": [{**one, **change}]}))
        with pytest.raises(ConfigError, match=r"inputs\.json"):
            read_inputs(file)


def test_proxies_are_believed_where_nobody_else_can_reach_the_port() -> None:
    for words in (["--host", "0.0.0.0"], ["--host", "::"], ["--host", "myhost"]):
        with pytest.raises(InputError, match="--proxy-address"):
            listening_of(parsed("serve", "heart", "--proxies", "1", *words))
        for more in (["--proxy-address", "10.0.0.7"], ["--insecure-http"]):
            found = listening_of(parsed("serve", "heart", "--proxies", "1", *words, *more))
            assert found.host == words[1] and found.certificate is None
    for host in ("127.0.0.1", "::1", "localhost"):
        listening_of(parsed("serve", "heart", "--proxies", "1", "--host", host))
    named = ("--proxy-address", "10.0.0.7", "--proxy-address", "fd00::/64")
    doors = _settings(parsed("serve", "heart", "--proxies", "1", *named)).doors
    assert doors.nearest == ("10.0.0.7/32", "fd00::/64")
    with pytest.raises(InputError, match=r"--proxy-address 10\.0\.0\.7/24"):
        _settings(parsed("serve", "heart", "--proxies", "1", "--proxy-address", "10.0.0.7/24"))
    with pytest.raises(InputError, match="--proxies"):
        _settings(parsed("serve", "heart", "--proxy-address", "10.0.0.7"))


def test_a_token_for_staging_opens_no_production() -> None:
    assert _settings(parsed("serve", "heart")).audience == "heart"
    assert _settings(parsed("serve", "heart@3")).audience == "heart"
    assert _settings(parsed("serve", "heart", "--stage", "staging")).audience == "heart/staging"
    assert _settings(parsed("serve", "heart", "--audience", "x")).audience == "x"


def test_the_log_is_as_large_as_it_is_told() -> None:
    assert _settings(parsed("serve", "heart", "--access-log-bytes", "1000000")).log_bytes == 10**6
    with pytest.raises(InputError, match="--access-log-bytes"):
        _settings(parsed("serve", "heart", "--access-log-bytes", "5"))


@pytest.mark.slow
def test_what_ends_a_process_lets_answers_go_out() -> None:
    """SIGTERM, as systemd and Kubernetes send it, is a Ctrl-C."""
    program = (
        "import os, signal, time\n"
        "from codex_ray.cli.ending import sigterm_as_interrupt\n"
        "try:\n"
        "    with sigterm_as_interrupt():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    print('ended')\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert said.stdout.decode().split() == ["ended", "True"], said.stderr
