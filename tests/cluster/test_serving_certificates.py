"""A certificate that faces the public answers, and opens no cluster."""

from __future__ import annotations

import argparse
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.x509 import ExtendedKeyUsage
from cryptography.x509.oid import ExtendedKeyUsageOID

from codex_ray.cli.certs import add_certs
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority, read_certificate
from codex_ray.records.keys import FOLDER_VARIABLE


def command(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="codex-ray")
    add_certs(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["certs", *words])
    assert arguments.command(arguments) == 0


def shake_hands(server: NodeFiles, client: NodeFiles) -> None:
    """Both show a certificate of the authority that both believe, as Ray's processes do."""
    sides = []
    for files, purpose in ((server, ssl.PROTOCOL_TLS_SERVER), (client, ssl.PROTOCOL_TLS_CLIENT)):
        context = ssl.SSLContext(purpose)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.certificate, files.key)
        sides.append((context, ssl.MemoryBIO(), ssl.MemoryBIO()))
    (one, to_one, from_one), (two, to_two, from_two) = sides
    serving = one.wrap_bio(to_one, from_one, server_side=True)
    calling = two.wrap_bio(to_two, from_two, server_hostname="localhost")
    for _ in range(4):
        for side in (calling, serving):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            to_one.write(from_two.read())
            to_two.write(from_one.read())
    serving.write(b"x")


def test_a_servers_key_is_nobody_to_a_cluster(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    node = issue(authority, tmp_path / "node", names=["localhost"])
    server = issue(authority, tmp_path / "server", names=["localhost"], opens_cluster=False)
    shake_hands(node, node)
    shake_hands(server, node)  # it answers
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        shake_hands(node, server)  # and does not call


def test_the_command_keeps_authorities_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    command("init")
    command("init", "--for", "serving")
    assert "certs issue NAME --for serving" in capsys.readouterr().out
    command("issue", "localhost", "--for", "serving", "--out", str(tmp_path / "serving"))
    said = capsys.readouterr().out
    assert f"--cert {tmp_path / 'serving' / 'node.pem'}" in said and "RAY_USE_TLS" not in said
    files = NodeFiles.under(tmp_path / "serving")
    its = read_certificate(files.certificate).extensions.get_extension_for_class(ExtendedKeyUsage)
    assert list(its.value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    cluster = (tmp_path / "keys" / "cluster" / "ca.pem").read_bytes()
    assert files.authority.read_bytes() != cluster
