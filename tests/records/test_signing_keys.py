"""Keys: made once, private to their owner, and read only where nobody else can have put them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codex_ray.cli import main
from codex_ray.errors import InputError
from codex_ray.records.keys import (
    FOLDER_VARIABLE,
    PRIVATE_NAME,
    PUBLIC_NAME,
    key_folder,
    make_keys,
    read_signing_key,
    read_trusted_key,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_keys(tmp_path / "keys")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys") == 0o700
    assert mode(tmp_path / "keys" / PRIVATE_NAME) == 0o600


def test_the_public_file_checks_what_the_private_one_signs(tmp_path: Path) -> None:
    made, public = make_keys(tmp_path / "keys")
    read = read_signing_key(tmp_path / "keys")
    trusted = read_trusted_key(public)
    assert read is not None and read.public == made.public == trusted
    signature = read.sign(b"epsilon 1")
    assert trusted.signed(b"epsilon 1", signature)
    assert not trusted.signed(b"epsilon 2", signature)
    assert not trusted.signed(b"epsilon 1", signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not make_keys(tmp_path / "other")[0].public.signed(b"epsilon 1", signature)
    assert made.public.fingerprint.startswith("SHA256:") and len(made.public.fingerprint) == 50


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    kept = (tmp_path / "keys" / PRIVATE_NAME).read_bytes()
    with pytest.raises(InputError, match="there is a key already"):
        make_keys(tmp_path / "keys")
    (tmp_path / "keys" / PUBLIC_NAME).unlink()
    with pytest.raises(InputError, match="there is a key already"):
        make_keys(tmp_path / "keys")
    assert (tmp_path / "keys" / PRIVATE_NAME).read_bytes() == kept


def test_a_key_that_appears_at_the_last_moment_is_not_overwritten_either(
    tmp_path: Path, monkeypatch
) -> None:
    make_keys(tmp_path / "keys")
    kept = (tmp_path / "keys" / PRIVATE_NAME).read_bytes()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(InputError, match="cannot be written: File exists"):
        make_keys(tmp_path / "keys")
    assert (tmp_path / "keys" / PRIVATE_NAME).read_bytes() == kept


def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(InputError, match=r"open to others.*chmod 700"):
        make_keys(tmp_path / "keys")
    assert not (tmp_path / "keys" / PRIVATE_NAME).exists()


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    (tmp_path / "keys" / PRIVATE_NAME).chmod(0o640)
    with pytest.raises(InputError, match="others may read the private key: chmod 600"):
        read_signing_key(tmp_path / "keys")


def test_no_key_is_no_error_and_a_private_one_is_never_trusted(tmp_path: Path) -> None:
    assert read_signing_key(tmp_path / "none") is None
    make_keys(tmp_path / "keys")
    with pytest.raises(InputError, match="is a private key: give the public one"):
        read_trusted_key(tmp_path / "keys" / PRIVATE_NAME)
    (tmp_path / "noise.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n")
    with pytest.raises(InputError, match="is no public key in PEM"):
        read_trusted_key(tmp_path / "noise.pem")
    with pytest.raises(InputError, match="cannot be read"):
        read_trusted_key(tmp_path / "absent.pem")


def test_a_private_key_is_in_no_repr(tmp_path: Path) -> None:
    key, _ = make_keys(tmp_path / "keys")
    assert "private" not in repr(key)
    assert key.private.private_bytes_raw().hex() not in repr(key)


def test_the_folder_is_the_environments_or_the_homes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "mine"))
    assert key_folder() == tmp_path / "mine"
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_folder() == tmp_path / ".config" / "codex_ray"


def test_keys_on_the_command_line(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    assert main(["keys", "show"]) == 2
    assert "make one with codex-ray keys init" in capsys.readouterr().err
    assert main(["keys", "init"]) == 0
    made = capsys.readouterr().out
    assert main(["keys", "show"]) == 0
    assert made.splitlines()[0] == capsys.readouterr().out.splitlines()[0]
    assert main(["keys", "init"]) == 2
    assert "there is a key already" in capsys.readouterr().err
    assert main(["keys", "init", "--out", str(tmp_path / "second")]) == 0
    assert read_trusted_key(tmp_path / "second" / PUBLIC_NAME).fingerprint not in made
