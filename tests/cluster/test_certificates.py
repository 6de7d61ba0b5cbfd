"""Certificates and tokens: for their owner alone, never overwritten, and refused when wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from codex_ray.cli import certs as certs_command
from codex_ray.cli import token as token_command
from codex_ray.cluster.certificates import (
    HERE,
    NodeFiles,
    check_node,
    issue,
    make_authority,
    names_in,
    read_authority,
    read_certificate,
)
from codex_ray.cluster.token import find_token, make_token, read_token
from codex_ray.errors import InputError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


@pytest.fixture
def node(tmp_path: Path) -> NodeFiles:
    authority = make_authority(tmp_path / "ca", now=NOW)
    return issue(authority, tmp_path / "node", names=["10.0.0.1", "head.example"], now=NOW)


def test_a_node_gets_what_ray_needs_and_never_the_authoritys_key(node: NodeFiles) -> None:
    assert check_node(node, now=NOW) == NOW + timedelta(days=30)
    folder = node.certificate.parent
    assert sorted(file.name for file in folder.iterdir()) == ["ca.pem", "node-key.pem", "node.pem"]
    assert (mode(folder), mode(node.key)) == (0o700, 0o600)
    assert mode(folder.parent / "ca" / "ca-key.pem") == 0o600
    certificate = read_certificate(node.certificate)
    assert names_in(certificate) == ["10.0.0.1", "head.example", *HERE]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {*usage} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert node.environment == {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(node.certificate),
        "RAY_TLS_SERVER_KEY": str(node.key),
        "RAY_TLS_CA_CERT": str(node.authority),
    }
    assert NodeFiles.named_by(node.environment) == node


def test_nothing_is_overwritten(node: NodeFiles) -> None:
    authority = read_authority(node.key.parent.parent / "ca")
    before = node.key.read_bytes()
    with pytest.raises(InputError, match="not overwritten"):
        issue(authority, node.key.parent, names=["10.0.0.1"], now=NOW)
    with pytest.raises(InputError, match="not overwritten"):
        make_authority(node.key.parent.parent / "ca")
    assert node.key.read_bytes() == before


def test_a_node_never_outlives_its_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca", days=10, now=NOW)
    node = issue(authority, tmp_path / "node", names=["10.0.0.1"], now=NOW)
    assert check_node(node, now=NOW) == NOW + timedelta(days=10)
    assert read_certificate(node.certificate).not_valid_after_utc == NOW + timedelta(days=10)
    with pytest.raises(InputError, match="authority expired on 2030-01-11"):
        issue(authority, tmp_path / "late", names=["10.0.0.1"], now=NOW + timedelta(days=10))


@pytest.mark.parametrize("days", [-1, 31], ids=["not yet", "expired"])
def test_a_certificate_out_of_its_time_is_refused(node: NodeFiles, days: int) -> None:
    with pytest.raises(InputError, match="not now: issue another"):
        check_node(node, now=NOW + timedelta(days=days))


def test_another_authoritys_another_key_and_a_readable_key_are_refused(
    node: NodeFiles, tmp_path: Path
) -> None:
    other = issue(
        make_authority(tmp_path / "ca2", now=NOW), tmp_path / "n2", names=["10.0.0.1"], now=NOW
    )
    with pytest.raises(InputError, match="was not issued by"):
        check_node(NodeFiles(node.certificate, node.key, other.authority), now=NOW)
    with pytest.raises(InputError, match="is not the key of"):
        check_node(NodeFiles(node.certificate, other.key, node.authority), now=NOW)
    node.key.chmod(0o640)
    with pytest.raises(InputError, match="others may read it: chmod 600"):
        check_node(node, now=NOW)


@pytest.mark.parametrize("name", ["not a name", "ä.example", "", "10.0.0.1/24"])
def test_what_is_no_name_is_refused_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca", now=NOW)
    with pytest.raises(InputError, match="neither an IP address nor a DNS name"):
        issue(authority, tmp_path / "node", names=[name], now=NOW)
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RAY_USE_TLS": ""}, "RAY_USE_TLS is ''"),
        ({"RAY_USE_TLS": "yes"}, "RAY_USE_TLS is 'yes'"),
        ({"RAY_TLS_SERVER_KEY": ""}, "RAY_TLS_SERVER_KEY not set"),
        ({"RAY_TLS_SERVER_CERT": "", "RAY_TLS_SERVER_KEY": ""}, "CERT, RAY_TLS_SERVER_KEY not set"),
    ],
)
def test_tls_that_is_half_set_is_refused(
    node: NodeFiles, change: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        NodeFiles.named_by(node.environment | change)
    assert NodeFiles.named_by({"RAY_USE_TLS": "0"}) is None


def test_a_folder_open_to_others_gets_no_key(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(InputError, match="chmod 700"):
        make_authority(tmp_path / "open")
    assert not any((tmp_path / "open").iterdir())


def test_a_token_is_for_its_owner_alone_and_shown_by_its_fingerprint_only(tmp_path: Path) -> None:
    token = make_token(tmp_path / "ray" / "auth_token")
    file = Path(token.where)
    assert mode(file) == 0o600
    assert len(bytes.fromhex(file.read_text())) == 32
    assert read_token(file) == token
    assert token.secret not in repr(token) and token.fingerprint not in token.secret
    with pytest.raises(InputError, match="not overwritten"):
        make_token(file)
    file.chmod(0o644)  # as Ray itself would write it
    with pytest.raises(InputError, match="others may read it"):
        read_token(file)


def test_a_token_is_looked_for_where_ray_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token({}) is None
    home = make_token(tmp_path / ".ray" / "auth_token")
    named = make_token(tmp_path / "named")
    assert find_token({}) == home
    by_path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}
    assert find_token(by_path) == named
    found = find_token(by_path | {"RAY_AUTH_TOKEN": "x" * 64})
    assert found is not None and found.secret == "x" * 64
    with pytest.raises(InputError, match="8 characters can be guessed"):
        find_token({"RAY_AUTH_TOKEN": "password"})
    with pytest.raises(InputError, match="No such file"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")})


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODEX_RAY_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert run(certs_command.add_certs, "certs", "init") == 0
    assert run(certs_command.add_certs, "certs", "issue", "10.0.0.1", "head.example") == 0
    words = capsys.readouterr().out
    folder = tmp_path / "keys" / "cluster" / "10.0.0.1"
    assert f"export RAY_TLS_SERVER_KEY={folder / 'node-key.pem'}" in words
    assert "10.0.0.1, head.example, localhost, 127.0.0.1" in words
    with pytest.raises(InputError, match="not overwritten"):
        run(certs_command.add_certs, "certs", "init")
    assert run(token_command.add_token, "token") == 0
    assert "made" in (first := capsys.readouterr().out)
    assert run(token_command.add_token, "token") == 0
    assert "found" in (second := capsys.readouterr().out)
    secret = (tmp_path / ".ray" / "auth_token").read_text()
    assert secret not in first + second
    assert first.removeprefix("made") == second.removeprefix("found")


def run(add: object, *words: str) -> int:
    """The exit status of one command."""
    import argparse

    parser = argparse.ArgumentParser()
    assert callable(add)
    add(parser.add_subparsers())
    arguments = parser.parse_args(words)
    return int(arguments.command(arguments))
