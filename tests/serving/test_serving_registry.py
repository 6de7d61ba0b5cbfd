"""From the registry to an answer: what is promoted is served, and what is not true never is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import House

import codex_ray
from codex_ray.bench.small_runs import SERVED
from codex_ray.cli.serve import _held
from codex_ray.errors import CodexRayError
from codex_ray.records.keys import FOLDER_VARIABLE, SigningKey, make_keys
from codex_ray.registry import Registry, RegistryError
from codex_ray.serving.from_registry import Source
from codex_ray.serving.inputs import Input, Inputs

RUN = SERVED | {"model": {"kind": "mlp", "hidden": [3]}}
DEBUGGED = RUN | {"seed": 2, "debug": True, "federation": {"protocol": {"kind": "clear"}}}
PLAIN = RUN | {"trainer": {"kind": "sgd", "learning_rate": 0.1}, "budget": {}}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SigningKey]:
    """A registry with three versions: two that claim an epsilon, and one that claims nothing."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "keys"))
        key, _ = make_keys(folder / "keys")
        registry = Registry.create(folder / "models", key=key)
        for number, config in enumerate((RUN, DEBUGGED, PLAIN)):
            codex_ray.run(config, out=folder / str(number))
            registry.register(folder / str(number), "tumour")
    return folder / "models", key


@pytest.fixture
def tumour(registered: tuple[Path, SigningKey], tmp_path: Path) -> tuple[House, Registry, Source]:
    """A server of a copy of that registry, version 1 promoted."""
    folder = Path(shutil.copytree(registered[0], tmp_path / "models"))
    folder.chmod(0o700)
    shutil.copy(registered[0].parent / "1" / "result.json", tmp_path)  # of version 2
    registry = Registry.open(folder, trusted=[registered[1].public], key=registered[1])
    registry.promote("tumour", 1)
    source = Source(folder, (registered[1].public,), "tumour")
    house = House(tmp_path, shelf=source.open())  # type: ignore[arg-type]
    return house, registry, source


def body(size: int) -> bytes:
    return f'{{"records": [{[0.1] * size}]}}'.encode()


def test_what_is_promoted_answers_with_its_own_parameters(
    tumour: tuple[House, Registry, Source],
) -> None:
    house, registry, source = tumour
    size = int(np.prod(registry.manifest(registry.version("tumour", 1)).input_shape))
    said = house.predict(body=body(size))
    assert said.status == 200, said.body
    assert said.value["version"] == "1"
    params = {name: it.double().numpy() for name, it in registry.load("tumour").params.items()}
    names = sorted(params, key=lambda name: (name[0], name.endswith("bias")))
    hidden = np.tanh(params[names[0]] @ np.full(size, 0.1) + params[names[1]])
    logit = (params[names[2]] @ hidden + params[names[3]]).item()
    one = 1 / (1 + np.exp(-logit))
    assert said.value["predictions"][0]["probabilities"] == pytest.approx([1 - one, one], abs=1e-4)
    card = house.get("/v1/card").value
    assert card["card"]["privacy"][0]["epsilon"] < 50.0
    assert card["unsafe"] == list(source.open().load().unsafe)


def test_the_card_says_what_no_epsilon_covers_and_what_was_switched_off(
    tumour: tuple[House, Registry, Source],
) -> None:
    house, registry, source = tumour
    registry.promote("tumour", 2)
    card, certificate = house.get("/v1/card").value, registry.load("tumour").certificate
    assert certificate is not None
    shown = card["card"]
    assert len(shown["no_epsilon_covers"]) == len(certificate.not_covered) > 3
    assert "debug (critical): norms under debug/ carry no noise" in shown["no_epsilon_covers"]
    words = "no cryptographic protection: the server sees every update"
    assert shown["updates"] == words
    assert shown["features_scaled_by"].startswith("fixed public constants: ")
    said = json.loads((source.folder.parent / "result.json").read_text())
    assert card["unsafe"] == sorted(said["unsafe"])
    switches = sorted(line.split(":")[0] for line in card["unsafe"])
    assert switches == ["SIMULATION", "debug", "no cryptographic protection"]


def test_promote_rollback_and_revoke_are_followed(tumour: tuple[House, Registry, Source]) -> None:
    house, registry, _ = tumour
    size = int(np.prod(registry.manifest(registry.version("tumour", 1)).input_shape))
    assert house.predict(body=body(size)).value["version"] == "1"
    registry.promote("tumour", 2)
    assert house.predict(body=body(size)).value["version"] == "2"
    registry.rollback("tumour")
    assert house.predict(body=body(size)).value["version"] == "1"
    registry.revoke("tumour", 1, reason="a test")
    said = house.predict(body=body(size))
    assert (said.status, said.code) == (503, "no_model")


def test_a_pinned_version_stays_until_it_is_revoked(
    tumour: tuple[House, Registry, Source], tmp_path: Path
) -> None:
    _, registry, source = tumour
    models = replace(source, version=1).open()
    registry.promote("tumour", 2)
    assert models.load().version == "1"
    registry.revoke("tumour", 1, reason="a test")
    assert models.identity() is None
    with pytest.raises(RegistryError, match="revoked"):
        models.load()


def test_a_changed_file_is_never_served(tumour: tuple[House, Registry, Source]) -> None:
    house, registry, source = tumour
    size = int(np.prod(registry.manifest(registry.version("tumour", 1)).input_shape))
    assert house.predict(body=body(size)).value["version"] == "1"
    stored = registry.manifest(registry.version("tumour", 2)).model.sha256
    registry.promote("tumour", 2)
    (file,) = [path for path in source.folder.rglob("*") if path.name == stored]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    assert house.predict(body=body(size)).value["version"] == "1"
    assert house.app.live.failures == 1
    with pytest.raises(CodexRayError):
        source.open().load()


def test_without_a_certificate_only_for_whoever_takes_that_upon_themselves(
    tumour: tuple[House, Registry, Source],
) -> None:
    _, _, source = tumour
    pinned = replace(source, version=3)
    with pytest.raises(RegistryError, match="certificate"):
        pinned.open().load()
    served = replace(pinned, unsafe=("allow_uncertified",)).open().load()
    assert any("uncertified" in line for line in served.unsafe)


def test_inputs_must_fit_the_model(tumour: tuple[House, Registry, Source]) -> None:
    _, _, source = tumour
    wrong = Inputs(inputs=(Input(name="age", low=0, high=120),))
    with pytest.raises(CodexRayError, match="inputs"):
        replace(source, inputs=wrong).open().load()


def test_a_switch_for_staging_opens_no_production(tumour: tuple[House, Registry, Source]) -> None:
    _, registry, source = tumour
    registry.promote("tumour", 3, stage="staging", unsafe=["allow_uncertified"])
    with pytest.raises(RegistryError, match="certificate"):
        registry.promote("tumour", 3)
    with pytest.raises(RegistryError, match="certificate"):
        replace(source, version=3).open().load()
    assert replace(source, stage="staging").open().load().version == "3"
    assert source.open().load().version == "1"


def test_what_staging_does_not_compute_again_production_does(
    tumour: tuple[House, Registry, Source],
) -> None:
    _, registry, source = tumour
    registry.promote("tumour", 1, stage="staging", unsafe=["skip_recompute"])
    for held in (source, replace(source, version=1)):
        assert not any("skip_recompute" in line for line in held.open().load().unsafe)
    staging = replace(source, stage="staging").open().load()
    assert any("skip_recompute" in line for line in staging.unsafe)


def test_a_registry_of_before_a_revocation_is_served_by_nobody_who_has_the_head(
    tumour: tuple[House, Registry, Source], tmp_path: Path
) -> None:
    _, registry, source = tumour
    older = shutil.copytree(source.folder, tmp_path / "older")
    registry.revoke("tumour", 1, reason="a hospital withdrew its records")
    head = source.open().head()
    assert head == registry.head()
    shutil.rmtree(source.folder)
    older.rename(source.folder)
    assert source.open().load().version == "1"  # nothing in the folder says so
    with pytest.raises(CodexRayError, match="events"):
        replace(source, head=head).open()


def test_the_driver_holds_replicas_that_start_later_to_what_it_saw(
    tumour: tuple[House, Registry, Source],
) -> None:
    _, registry, source = tumour
    assert _held(source).head == registry.head()
    with pytest.raises(CodexRayError, match="events"):
        _held(replace(source, head=f"99:{'0' * 64}"))


def test_a_version_that_answers_is_found_wrong_where_it_lies(
    tumour: tuple[House, Registry, Source],
) -> None:
    _, registry, source = tumour
    models = source.open()
    identity = models.load().identity
    models.check(identity)
    registry.promote("tumour", 2)
    models.check(identity)  # superseded is not wrong
    stored = registry.manifest(registry.version("tumour", 1)).model.sha256
    (file,) = [path for path in source.folder.rglob("*") if path.name == stored]
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CodexRayError, match="was changed"):
        models.check(identity)
    file.write_bytes(content)
    models.check(identity)
    registry.revoke("tumour", 1, reason="a test")
    with pytest.raises(CodexRayError, match="is revoked"):
        models.check(identity)
    with pytest.raises(CodexRayError, match="none of the registry's"):
        models.check("0" * 64)
