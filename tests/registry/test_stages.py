"""registered -> promoted -> superseded, and revoked for good; rollback goes back one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registered_runs import another

from codex_ray.records.keys import SigningKey
from codex_ray.registry import Registry, RegistryError
from codex_ray.registry.log import Log

Runs = Callable[[str], Path]


@pytest.fixture
def three(registry: Registry, runs: Runs, tmp_path: Path) -> Registry:
    """heart 1 and 2 with certificates, 3 without one."""
    for name in ("claims", "claims-more", "claims-nothing"):
        registry.register(runs(name), "heart")
    return registry


def _states(registry: Registry) -> list[str]:
    return [version.state for version in registry.versions("heart")]


def test_promotion_supersedes_and_rollback_goes_back_one_by_one(three: Registry) -> None:
    for number in (1, 2):
        three.promote("heart", number)
    three.promote("heart", 3, unsafe=["allow_uncertified"])
    assert _states(three) == ["superseded", "superseded", "promoted"]
    assert three.rollback("heart").version == 2
    assert three.rollback("heart").version == 1
    assert _states(three) == ["promoted", "superseded", "superseded"]
    with pytest.raises(RegistryError, match="nothing was in production before"):
        three.rollback("heart")
    three.promote("heart", 2)
    assert three.rollback("heart").version == 1  # and not the 2 of long ago


def test_rollback_passes_over_what_is_revoked(three: Registry) -> None:
    for number in (1, 2):
        three.promote("heart", number)
    three.promote("heart", 3, unsafe=["allow_uncertified"])
    three.revoke("heart", 2, reason="its data were withdrawn")
    assert three.rollback("heart").version == 1


def test_a_revoked_version_is_never_promoted_or_loaded(three: Registry) -> None:
    three.promote("heart", 1)
    three.promote("heart", 2)
    assert three.revoke("heart", 2, reason=" wrong\nlabels ").reason == "wrong labels"
    assert three.current("heart") is None
    with pytest.raises(RegistryError, match=r"is revoked.*rollback"):
        three.load("heart")
    for attempt in (
        lambda: three.load("heart", 2),
        lambda: three.load("heart", 2, unsafe=["allow_uncertified", "skip_recompute"]),
        lambda: three.promote("heart", 2),
        lambda: three.promote("heart", 2, stage="staging"),
        lambda: three.revoke("heart", 2, reason="again"),
    ):
        with pytest.raises(RegistryError, match=r"is revoked.*wrong labels"):
            attempt()
    three.rollback("heart")
    assert three.load("heart").version.version == 1
    for reason in (" ", "\x1b[2J"):
        with pytest.raises(RegistryError, match="reason"):
            three.revoke("heart", 1, reason=reason)


def test_registering_a_revoked_run_again_leaves_it_revoked(three: Registry, runs: Runs) -> None:
    three.revoke("heart", 1, reason="no")
    found = three.register(runs("claims"), "heart")
    assert (found.new, found.version.state) == (False, "revoked")


def test_without_a_certificate_only_the_named_switch_lets_a_model_through(three: Registry) -> None:
    for attempt in (lambda: three.promote("heart", 3), lambda: three.load("heart", 3)):
        with pytest.raises(RegistryError, match="--allow-uncertified"):
            attempt()
    assert three.versions("heart")[2].state == "registered"
    three.promote("heart", 3, unsafe=["allow_uncertified"])
    served = three.load("heart")
    assert served.certificate is None
    assert any(line.startswith("uncertified") for line in served.unsafe)
    assert three.events()[-1].unsafe == ("allow_uncertified",)
    three.promote("heart", 1)
    with pytest.raises(RegistryError, match="--allow-uncertified"):
        three.load("heart", 3)  # it is in use no longer


def test_a_weaker_check_in_another_stage_does_not_weaken_this_one(three: Registry) -> None:
    three.promote("heart", 1)
    three.promote("heart", 1, stage="staging", unsafe=["skip_recompute"])
    assert not any("skip_recompute" in line for line in three.load("heart").unsafe)
    assert any("skip_recompute" in line for line in three.load("heart", stage="staging").unsafe)


def test_promoting_what_is_there_changes_nothing(three: Registry) -> None:
    three.promote("heart", 1)
    before = three.head()
    three.promote("heart", 1)
    assert three.head() == before


def test_stages_are_apart(three: Registry) -> None:
    three.promote("heart", 1)
    three.promote("heart", 2, stage="staging")
    assert three.load("heart").version.version == 1
    assert three.load("heart", stage="staging").version.version == 2
    assert three.versions("heart")[1].stages == ("staging",)
    with pytest.raises(RegistryError, match="is no stage"):
        three.promote("heart", 1, stage="a/b")


def test_what_there_is_not_is_said_with_what_there_is(three: Registry) -> None:
    with pytest.raises(RegistryError, match=r"it has 1, 2, 3"):
        three.load("heart", 9)
    with pytest.raises(RegistryError, match="there are heart"):
        three.load("lung")
    with pytest.raises(RegistryError, match=r"nothing is in production.*promote heart@3"):
        three.load("heart")


def test_who_opens_no_registry_is_told_how_to_make_one(tmp_path: Path, key: SigningKey) -> None:
    with pytest.raises(RegistryError, match="--register"):
        Registry.open(tmp_path, trusted=[key.public])
    (tmp_path / "registry.sqlite").touch()  # as a crash can leave it
    with pytest.raises(RegistryError, match="--register"):
        Registry.open(tmp_path, trusted=[key.public])
    assert Registry.create(tmp_path, key=key).versions() == []


@pytest.mark.parametrize(
    ("revoked", "attempt"),
    [(1, lambda r: r.rollback("heart")), (1, lambda r: r.promote("heart", 1))],
    ids=["rollback", "promote"],
)
def test_a_revocation_between_look_and_leap_is_seen(
    three: Registry,
    key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
    revoked: int,
    attempt: Callable[[Registry], object],
) -> None:
    three.promote("heart", 1)
    three.promote("heart", 2)
    other, add = Registry.open(three.folder, trusted=[], key=key), Log.add

    def after_somebody_else(log: Log, decide: Any) -> object:
        monkeypatch.setattr(Log, "add", add)
        other.revoke("heart", revoked, reason="just now")
        return add(log, decide)

    monkeypatch.setattr(Log, "add", after_somebody_else)
    with pytest.raises(RegistryError):
        attempt(three)
    assert three.load("heart").version.version == 2


def test_two_runs_that_differ_in_a_figure_are_two_versions(
    registry: Registry, runs: Runs, tmp_path: Path
) -> None:
    for number, accuracy in enumerate((0.5, 0.25), start=1):
        run = another(runs("claims-nothing"), tmp_path / str(number), accuracy=accuracy)
        assert registry.register(run, "heart").version.version == number
