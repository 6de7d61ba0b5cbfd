"""Whatever is changed in a registry is found, and nothing that was changed is loaded."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codex_ray.errors import CodexRayError
from codex_ray.records.canonical import canonical
from codex_ray.records.keys import SigningKey, make_keys
from codex_ray.registry import Registry, RegistryError, TamperError
from codex_ray.registry.events import Event, Head
from codex_ray.registry.index import NAME

Runs = Callable[[str], Path]
TRIALS = 2000


@pytest.fixture
def filled(registry: Registry, runs: Runs) -> Registry:
    """heart 1 and 2, of which 1 is in production and 2 is revoked."""
    registry.register(runs("claims"), "heart")
    registry.register(runs("claims-more"), "heart")
    registry.promote("heart", 1)
    registry.revoke("heart", 2, reason="withdrawn")
    return registry


def _fresh(registry: Registry, key: SigningKey) -> Registry:
    return Registry.open(registry.folder, trusted=[key.public])


def _files(registry: Registry) -> list[Path]:
    """The files of heart 1: those in its manifest, and that manifest."""
    version = registry.version("heart", 1)
    manifest = registry.manifest(version)
    names = [version.manifest_sha256, *(stored.sha256 for stored in manifest.files.values())]
    return [registry._shelf.objects.path(name) for name in names]


def _write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_two_thousand_changed_files_are_found_and_none_is_loaded(
    filled: Registry, key: SigningKey
) -> None:
    chance = random.Random(8)
    paths = _files(filled)
    contents = {path: path.read_bytes() for path in paths}
    others = [p for p in filled._shelf.objects.all_files() if p not in paths]
    reader = _fresh(filled, key)
    found = 0
    for trial in range(TRIALS):
        path = paths[trial % len(paths)]
        content = contents[path]
        at = chance.randrange(len(content))
        changed = {
            0: content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :],
            1: content[:at],
            2: content + bytes(chance.randrange(1, 9)),
            3: content[:at] + content[at + 1 :],
            4: chance.choice([p for p in [*paths, *others] if p != path]).read_bytes(),
        }[chance.choices(range(5), weights=(6, 2, 1, 1, 1))[0]]
        _write(path, changed)
        with pytest.raises(TamperError):
            reader.load("heart")
        found += 1
        _write(path, content)
    assert found == TRIALS
    assert reader.load("heart").version.version == 1


def test_every_bit_of_a_manifest_counts(filled: Registry, key: SigningKey) -> None:
    """Also those that change nothing of what it says, were its hash not in an event."""
    reader = _fresh(filled, key)
    path = _files(filled)[0]
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        _write(path, content[:at] + bytes([content[at] ^ 32]) + content[at + 1 :])
        with pytest.raises(TamperError):
            reader.load("heart")
    _write(path, content)


def test_a_missing_file_a_folder_and_a_huge_one_are_found(
    filled: Registry, key: SigningKey
) -> None:
    path = filled._shelf.objects.path(filled.manifest(filled.version("heart", 1)).model.sha256)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(TamperError, match="cannot be read"):
        _fresh(filled, key).load("heart")
    path.mkdir()
    with pytest.raises(TamperError, match="cannot be read"):
        _fresh(filled, key).load("heart")
    path.rmdir()
    with path.open("wb") as file:
        file.write(content)
        file.truncate(1 << 40)  # nobody reads so much of it
    with pytest.raises(TamperError, match="was changed"):
        _fresh(filled, key).load("heart")


def test_a_changed_index_is_found_or_says_the_same(filled: Registry, key: SigningKey) -> None:
    """A byte of SQLite's own may mean nothing: then all that is loaded is what was signed."""
    chance = random.Random(9)
    index = filled.folder / NAME
    content, head = index.read_bytes(), filled.head()
    model = filled.load("heart").model
    unchanged = 0
    for _ in range(150):
        at = chance.randrange(len(content))
        index.write_bytes(
            content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
        )
        try:
            found = _fresh(filled, key)
            assert (found.head(), found.load("heart", recompute=False).model) == (head, model)
            unchanged += 1
        except CodexRayError as error:
            assert "\n" not in str(error)
    assert unchanged < 150


@contextmanager
def _rows(registry: Registry) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(registry.folder / NAME)
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


def _body(connection: sqlite3.Connection, number: int) -> bytes:
    found = connection.execute("SELECT body FROM events WHERE number = ?", (number,)).fetchone()
    assert isinstance(found[0], bytes)
    return found[0]


CHANGES = {
    "the last removed": "DELETE FROM events WHERE number = 4",
    "the last two removed": "DELETE FROM events WHERE number >= 3",
    "one in the middle removed": "DELETE FROM events WHERE number = 2",
    "the first removed": "DELETE FROM events WHERE number = 0",
    "all removed": "DELETE FROM events",
    "closed up": "UPDATE events SET number = number - 1 WHERE number > 2",
    "added twice": "INSERT INTO events SELECT 5, body FROM events WHERE number = 3",
    "head removed": "DELETE FROM head",
    "an empty one": "UPDATE events SET body = x'' WHERE number = 1",
    "tables gone": "DROP TABLE events",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_events_removed_or_moved_are_found(filled: Registry, key: SigningKey, change: str) -> None:
    with _rows(filled) as connection:
        if change.startswith("UPDATE events SET number"):
            connection.execute("DELETE FROM events WHERE number = 2")
        connection.execute(change)
    with pytest.raises((TamperError, RegistryError)):
        _fresh(filled, key)


@pytest.mark.parametrize(("one", "two"), [(1, 2), (3, 4), (0, 1), (2, 4)])
def test_events_in_another_order_are_found(
    filled: Registry, key: SigningKey, one: int, two: int
) -> None:
    with _rows(filled) as connection:
        bodies = _body(connection, one), _body(connection, two)
        connection.execute("UPDATE events SET body = ? WHERE number = ?", (bodies[1], one))
        connection.execute("UPDATE events SET body = ? WHERE number = ?", (bodies[0], two))
    with pytest.raises(TamperError, match=r"does not follow|only ever the first"):
        _fresh(filled, key)


def _replace(
    connection: sqlite3.Connection, number: int, event: Event, *, signer: SigningKey
) -> None:
    """Puts an event in another's place and a head over it, all signed by `signer`."""
    body = event.signed_by(signer).to_bytes()
    connection.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (number, body))
    head = Head(registry=event.registry, events=number + 1, last=event.signed_by(signer).address)
    connection.execute("UPDATE head SET body = ?", (head.signed_by(signer).to_bytes(),))


def test_an_event_that_is_edited_is_found(filled: Registry, key: SigningKey) -> None:
    with _rows(filled) as connection:
        said = json.loads(_body(connection, 4))
        assert said["kind"] == "revoked"
        said["version"] = 1
        connection.execute(
            "UPDATE events SET body = ? WHERE number = 4", (Event(**said).to_bytes(),)
        )
    with pytest.raises(TamperError, match="no trusted key signed it"):
        _fresh(filled, key)


def test_what_somebody_else_signed_is_not_believed(
    filled: Registry, key: SigningKey, tmp_path: Path
) -> None:
    stranger, _ = make_keys(tmp_path / "stranger")
    last = filled.events()[-1]
    with _rows(filled) as connection:
        _replace(connection, 4, last.model_copy(update={"reason": "it is good"}), signer=stranger)
    with pytest.raises(TamperError, match="no trusted key signed it"):
        _fresh(filled, key)
    # Nor if it says that it is of the key that is trusted.
    with _rows(filled) as connection:
        body = json.loads(_body(connection, 4))
        body["signature"]["key"] = key.public.fingerprint
        connection.execute(
            "UPDATE events SET body = ? WHERE number = 4", (Event(**body).to_bytes(),)
        )
    with pytest.raises(TamperError, match="no trusted key signed it"):
        _fresh(filled, key)


def test_a_signed_event_that_breaks_the_rules_is_found(filled: Registry, key: SigningKey) -> None:
    """Even whoever has the key cannot have a log in which a revoked version is promoted."""
    last = filled.events()[-1]
    promoted = last.model_copy(
        update={
            "number": 5,
            "before": last.address,
            "kind": "promoted",
            "stage": "production",
            "reason": None,
        }
    )
    with _rows(filled) as connection:
        _replace(connection, 5, promoted, signer=key)
    with pytest.raises(TamperError, match=r"event 5.*is revoked"):
        _fresh(filled, key)


def test_an_event_of_another_registry_is_found(
    filled: Registry, key: SigningKey, tmp_path: Path
) -> None:
    other = Registry.create(tmp_path / "other", key=key)
    last = filled.events()[-1]
    moved = last.model_copy(update={"registry": other.events()[0].registry})
    with _rows(filled) as connection:
        _replace(connection, 4, moved, signer=key)
    with pytest.raises(TamperError, match="of another registry"):
        _fresh(filled, key)


def test_another_versions_manifest_is_not_taken(
    registry: Registry, runs: Runs, key: SigningKey
) -> None:
    """A signed event that names a manifest of another version: what is loaded is what is asked."""
    one = registry.register(runs("claims"), "heart").version
    two = registry.register(runs("claims"), "lung").version
    last = registry.events()[-1]
    assert last.manifest == two.manifest_sha256
    with _rows(registry) as connection:
        moved = last.model_copy(update={"manifest": one.manifest_sha256})
        _replace(connection, 2, moved, signer=key)
    with pytest.raises(TamperError, match="is that of heart@1"):
        _fresh(registry, key).load("lung", 1)


def test_an_older_registry_is_found_by_whoever_saw_the_newer(
    filled: Registry, key: SigningKey, tmp_path: Path
) -> None:
    old = tmp_path / "old.sqlite"
    shutil.copy(filled.folder / NAME, old)
    reader, before = _fresh(filled, key), filled.head()
    filled.revoke("heart", 1, reason="leaks")
    newer = filled.head()
    with pytest.raises(RegistryError, match="is revoked"):
        reader.load("heart")
    shutil.copy(old, filled.folder / NAME)
    with pytest.raises(TamperError, match="put back an older index"):
        reader.load("heart")
    with pytest.raises(TamperError, match="had those up to"):
        Registry.open(filled.folder, trusted=[key.public], head=newer)
    assert Registry.open(filled.folder, trusted=[key.public], head=before).head() == before
    # Another future than the one that was seen.
    Registry.open(filled.folder, trusted=[], key=key).revoke("heart", 1, reason="other words")
    with pytest.raises(TamperError, match="is not the one that it was"):
        reader.load("heart")
    with pytest.raises(TamperError, match="is not the one that it was"):
        Registry.open(filled.folder, trusted=[key.public], head=newer)


def test_a_signature_over_something_else_is_none(filled: Registry, key: SigningKey) -> None:
    """The layout counts too: the same words in another layout are another file."""
    version = filled.version("heart", 1)
    manifest = filled.manifest(version)
    assert manifest.signature is not None
    kept = base64.b64decode(manifest.signature.value)
    assert key.public.signed(manifest.signed_bytes(), kept)
    body = manifest.to_json()
    del body["signature"]
    assert canonical(body) == manifest.signed_bytes()


def test_verify_says_what_is_wrong_with_which_version(filled: Registry, key: SigningKey) -> None:
    assert filled.verify() == []
    model = filled.manifest(filled.version("heart", 2)).model.sha256
    _write(filled._shelf.objects.path(model), b"x")
    wrong = _fresh(filled, key).verify()
    assert len(wrong) == 1
    assert wrong[0].startswith("heart@2: model.safetensors")
    assert _fresh(filled, key).load("heart").version.version == 1


def test_a_certificate_that_does_not_follow_from_its_files_is_not_served(
    filled: Registry, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is signed, and yet the figures are not what codex_ray computes."""
    import codex_ray.registry.certified as certified
    from codex_ray.certifying.verify import Verification

    def disagrees(run: Path) -> Verification:
        return Verification(
            None, (f"{run}/privacy.json: epsilon is 1, computed again it is 9",), (), False
        )

    monkeypatch.setattr(certified, "verify", disagrees)
    with pytest.raises(TamperError, match=r"heart@1: its certificate does not follow.*it is 9"):
        filled.load("heart")
    with pytest.raises(TamperError, match="does not follow"):
        filled.promote("heart", 1, stage="staging")
    assert filled.load("heart", recompute=False).version.version == 1
    filled.promote("heart", 1, unsafe=["skip_recompute"])
    assert any("skip_recompute" in line for line in filled.load("heart").unsafe)
