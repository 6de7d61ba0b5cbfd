"""Keys: shown once, kept as a hash, and good for no longer and no more than was said."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from asking import NOW, House

from codex_ray.errors import InputError
from codex_ray.serving.api_keys import KeyRing, new_key
from codex_ray.serving.key_file import KeyFile, WatchedKeys

TERMS = {"roles": ("user",), "scopes": ("model:*",), "now": NOW, "seconds": 3600.0}


def test_a_key_is_32_random_bytes_of_which_the_file_has_a_hash_alone(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key, shown = file.create("alice", **TERMS)
    assert re.fullmatch(r"crk_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", shown)
    kept = file.path.read_text()
    secret = shown.partition(".")[2]
    assert key.id in kept and secret not in kept
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.create("alice", **TERMS)[1] != shown


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.create("alice", **TERMS)
    file.path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        file.read()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": "codex-ray-keys/1", "keys": [{"id": 1}]}', "{" * 5000]
)
def test_a_file_that_is_none_is_refused_in_a_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="no file of keys"):
        KeyFile(path).read()


def test_only_the_whole_key_opens() -> None:
    key, shown = new_key("alice", **TERMS)
    ring = KeyRing([key])
    assert ring.holder(shown, NOW) == key.caller
    for place in range(len(shown)):
        other = "A" if shown[place] != "A" else "B"
        changed = shown[:place] + other + shown[place + 1 :]
        # The last character carries two bits that are no part of the 32 bytes.
        if place < len(shown) - 1:
            assert ring.holder(changed, NOW) is None
    for wrong in ("", "crk_", shown[:-1], shown + "A", shown.upper(), f" {shown}", f"{shown}\n"):
        assert ring.holder(wrong, NOW) is None


def test_a_hash_instead_of_the_secret_opens_nothing() -> None:
    key, shown = new_key("alice", **TERMS)
    stolen = replace(key, sha256=hashlib.sha256(bytes.fromhex(key.sha256)).hexdigest())
    assert KeyRing([stolen]).holder(shown, NOW) is None


def test_a_key_ends_when_it_expires_or_is_revoked(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key, shown = file.create("alice", **TERMS)
    assert KeyRing([key]).holder(shown, NOW + 3599) is not None
    assert KeyRing([key]).holder(shown, NOW + 3600) is None
    revoked = file.revoke(key.id, now=NOW + 10)
    assert KeyRing(file.read()).holder(shown, NOW + 11) is None
    assert revoked.state(NOW + 11) == "revoked"
    assert file.revoke(key.id, now=NOW + 99).revoked == NOW + 10  # it stays when it was


def test_a_rotated_key_works_beside_the_new_one_for_the_overlap(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key, old = file.create("alice", budget=100, **TERMS)
    ending, made, new = file.rotate(key.id, now=NOW + 5, seconds=7200, overlap=60)
    ring = KeyRing(file.read())
    assert ring.holder(old, NOW + 64) and ring.holder(new, NOW + 64)
    assert ring.holder(old, NOW + 65) is None
    assert ring.holder(new, NOW + 7204)
    # One account: a rotation is no new budget.
    assert ending.caller == made.caller and made.caller.id == key.id
    file.revoke(key.id, now=NOW + 6)
    with pytest.raises(InputError, match="revoked"):
        file.rotate(key.id, now=NOW + 7, seconds=7200, overlap=60)


def test_a_key_that_opens_nothing_or_for_ever_is_not_made() -> None:
    for change in (
        {"roles": ()},
        {"scopes": ()},
        {"seconds": 0.0},
        {"seconds": 1e9},
        {"budget": 0},
        {"rate": 0.0},
    ):
        with pytest.raises(InputError):
            new_key("alice", **{**TERMS, **change})
    with pytest.raises(InputError, match="name"):
        new_key("a\nb", **TERMS)


def test_a_server_notices_a_revocation_without_a_restart(house: House) -> None:
    assert house.predict().status == 200
    house.keys.revoke(house.keys.read()[0].id, now=NOW)
    assert house.app._keys.refresh()
    assert house.predict().status == 401


def test_a_server_goes_on_with_the_keys_it_has_when_the_file_is_spoilt(house: House) -> None:
    watched = WatchedKeys(house.keys.path)
    house.keys.path.write_text("{}")
    with pytest.raises(InputError):
        watched.refresh()
    assert len(watched.ring) == 1


def test_scopes_hold_whatever_the_policy_allows(house: House) -> None:
    key = house.new_key("narrow", scopes=("model:GetCard",))
    house.app._keys.refresh()
    assert house.get("/v1/card", key=key).status == 200
    said = house.predict(key=key)
    assert (said.status, said.code) == (403, "out_of_scope")


def test_roles_hold_whatever_the_scope_says(house: House) -> None:
    key = house.new_key("monitor", roles=("monitor",), scopes=("*",))
    house.app._keys.refresh()
    assert house.get("/metrics", key=key).status == 200
    assert house.predict(key=key).code == "forbidden"
    assert house.get("/metrics").code == "out_of_scope"
    assert house.get("/v1/model", key=key).code == "forbidden"
