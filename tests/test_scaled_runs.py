"""Runs that are scaled by figures of private records: found once, paid for, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pooling import (
    DP_SGD,
    EXACT,
    NOISE,
    NOISED,
    OWN,
    SGD,
    SHARED,
    SIZES,
    UPDATES,
    experiment,
    write_hospitals,
)

import codex_ray
from codex_ray.accounting import claims, costs
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.figures import figures_event
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.release import Release
from codex_ray.preparation.schema import Schema
from codex_ray.privacy.accountants import account
from codex_ray.randomness import Randomness
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.run_directory import RunDirectory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


def statistics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_yaml(run / "config.yaml")["data"]["prepare"]["statistics"]
    return found


def test_figures_in_the_configuration_are_those_of_the_pooled_training_records(
    files: str, tmp_path: Path
) -> None:
    result = codex_ray.run(experiment(files, EXACT), out=tmp_path / "run")
    source = experiment_from(experiment(files, EXACT)).data
    tables = source.tables(Randomness.of(0).public)  # type: ignore[union-attr]  # a CSV's
    whole = np.concatenate([table.values for table in tables.clients])
    found = statistics_of(tmp_path / "run")
    quartiles = np.nanquantile(whole, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf")
    off = np.array(found["resolution"])
    assert found["columns"] == ["age", "chol", "angina"]
    assert np.all(np.abs(np.array(found["centre"][0]) - quartiles[1]) <= off + 1e-9)
    spread = 0.7413 * (quartiles[2] - quartiles[0])
    assert np.all(np.abs(np.array(found["spread"][0]) - spread) <= 2 * 0.7413 * off + 1e-9)
    assert result.preparation is not None
    assert result.preparation["source"] == "securely pooled"
    assert result.preparation["spent"] == []


def test_the_same_seed_gives_the_same_figures_and_the_same_model(
    files: str, tmp_path: Path
) -> None:
    config = experiment(files, NOISED, trainer=SHARED, mechanism=NOISE)
    one, other = (codex_ray.run(config, out=tmp_path / name) for name in "ab")
    assert one.model_sha256 == other.model_sha256
    assert statistics_of(tmp_path / "a") == statistics_of(tmp_path / "b")
    third = codex_ray.run(config | {"seed": 1}, out=tmp_path / "c")
    assert third.model_sha256 != one.model_sha256


@pytest.mark.parametrize("seed", [0, None])
def test_a_resumed_run_noises_nothing_again(
    seed: int | None, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(files, NOISED, trainer=SHARED, mechanism=NOISE, seed=seed)
    whole = codex_ray.run(config, out=tmp_path / "whole")

    def stop(result: object) -> None:
        if result is not None and result.round == 0:  # type: ignore[attr-defined]  # of a round
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codex_ray.run(config, out=tmp_path / "cut", watch=stop)
    before = statistics_of(tmp_path / "cut")

    def never(*_: object) -> None:
        raise AssertionError("figures were released a second time")

    monkeypatch.setattr(Release, "statistics", never)
    resumed = codex_ray.run(resume=tmp_path / "cut")
    assert statistics_of(tmp_path / "cut") == before
    assert resumed.epsilon == whole.epsilon
    assert (resumed.model_sha256 == whole.model_sha256) is (seed == 0)
    assert (before == statistics_of(tmp_path / "whole")) is (seed == 0)


@pytest.mark.parametrize(
    ("trainer", "mechanism", "scaling"),
    [
        (SHARED, NOISE, "pooled"),
        (SHARED, NOISE, "per_client"),
        (DP_SGD, None, "pooled"),
        (DP_SGD, None, "per_client"),
        (SGD, UPDATES, "pooled"),
        (SGD, NOISE | {"clip_norm": 0.5}, "pooled"),
        (SGD, UPDATES | {"kind": "local_gaussian"}, "pooled"),
    ],
)
def test_the_release_is_composed_with_the_training(
    trainer: dict[str, Any],
    mechanism: dict[str, Any] | None,
    scaling: str,
    files: str,
    tmp_path: Path,
) -> None:
    asked = NOISED | {"scaling": scaling}
    config = experiment(files, asked, trainer=trainer, mechanism=mechanism)
    result = codex_ray.run(config, out=tmp_path / "run")
    (ledger,) = Checkpoints(RunDirectory(tmp_path / "run").checkpoint).load().ledgers
    event = figures_event(experiment_from(config), len(SIZES))
    for history in ledger.paid.different():
        assert dict(history)[event] == 1
        rest = tuple((e, n) for e, n in history if e != event)
        both = account(history, ledger.delta, relation=ledger.relation).epsilon
        alone = account(rest, ledger.delta, relation=ledger.relation).epsilon
        assert result.epsilon == both > alone > 0
    assert result.preparation is not None
    (spent,) = result.preparation["spent"]
    assert 0 < spent["epsilon"] < result.epsilon
    assert result.preparation["source"].endswith("with DP")
    assert list(costs(experiment_from(config)))[-1].epsilon >= result.epsilon * (1 - 1e-9)
    assert "once, before all rounds" in claims(experiment_from(config))[0]


def test_noise_on_figures_leaves_less_for_training(files: str) -> None:
    auto = NOISE | {"noise_multiplier": "auto"}
    budget = {"epsilon": 1.0, "delta": 1e-5}
    found = [
        experiment_from(
            experiment(files, asked, trainer=SHARED, mechanism=auto, budget=budget)
        ).federation.mechanism
        for asked in (NOISED, None)
    ]
    with_figures, without = (float(it.noise_multiplier) for it in found)  # type: ignore[union-attr]
    assert with_figures > 1.02 * without
    for planned in (NOISED, None):
        last = list(
            costs(
                experiment_from(
                    experiment(files, planned, trainer=SHARED, mechanism=auto, budget=budget)
                )
            )
        )[-1]
        assert 0.99 < last.epsilon <= 1.0 and last.affordable


def test_figures_dearer_than_the_budget_are_not_released(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Release, "statistics", lambda *_: pytest.fail("released"))
    budget = {"epsilon": 0.05, "delta": 1e-5}
    config = experiment(files, NOISED, trainer=SHARED, mechanism=NOISE, budget=budget)
    with pytest.raises(ConfigError, match=r"the figures alone cost epsilon 0\.\d+, and budget"):
        codex_ray.run(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("prepare", "trainer", "mechanism", "said"),
    [
        (EXACT, SHARED, NOISE, "record-level claim: figures of all clients' records would"),
        (EXACT, DP_SGD, None, "record-level claim: figures of all clients' records would"),
        (EXACT, SGD, UPDATES, "client-level claim: figures of all clients' records would"),
        (OWN, SHARED, NOISE, "one record moves its client's figures"),
        (OWN, DP_SGD, None, "one record moves its client's figures"),
        (NOISED, SGD, None, "no claim of this run rests on it"),
        (NOISED | OWN, SGD, UPDATES, "no claim of this run rests on it"),
        (NOISED, DP_SGD, UPDATES, "a record-level and a client-level claim"),
    ],
)
def test_what_would_break_a_claim_is_refused(
    prepare: dict[str, Any],
    trainer: dict[str, Any],
    mechanism: dict[str, Any] | None,
    said: str,
    files: str,
) -> None:
    config = experiment(files, prepare, trainer=trainer, mechanism=mechanism)
    with pytest.raises(ConfigError, match=said):
        assemble(experiment_from(config))


def test_records_that_are_shown_with_noise_of_their_own_are_scaled_by_constants(files: str) -> None:
    noise = {"kind": "randomised_response", "epsilon": 1.0}
    config = experiment(files, NOISED, local_noise=noise)
    with pytest.raises(ConfigError, match="local_noise shows each record with noise"):
        assemble(experiment_from(config))


def test_own_figures_are_free_under_a_client_level_claim_and_stand_nowhere(
    files: str, tmp_path: Path
) -> None:
    result = codex_ray.run(experiment(files, OWN, mechanism=UPDATES), out=tmp_path / "run")
    assert result.preparation is not None
    assert (result.preparation["source"], result.preparation["spent"]) == ("per client", [])
    assert statistics_of(tmp_path / "run") is None
    without = codex_ray.run(experiment(files, None, mechanism=UPDATES), out=tmp_path / "fixed")
    assert result.epsilon == without.epsilon


def test_nothing_is_trained_on_features_that_nobody_has_scaled(files: str) -> None:
    built = assemble(experiment_from(experiment(files, EXACT)))
    with pytest.raises(ConfigError, match="figures of all clients are found before round 0"):
        built.host()


def test_a_run_without_prepare_is_what_it_was(files: str, tmp_path: Path) -> None:
    """Its features, to the bit, are those of public ranges."""
    built = assemble(experiment_from(experiment(files, None)))
    tables = built.experiment.data.tables(Randomness.of(0).public)  # type: ignore[union-attr]
    low, high = np.array([20.0, 80.0, 0.0]), np.array([80.0, 610.0, 1.0])
    values = tables.clients[0].values
    scaled = np.clip(2.0 * (values - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32)
    assert built.dataset.client(0).features.tobytes() == scaled.tobytes()
    result = codex_ray.run(experiment(files, None), out=tmp_path / "run")
    assert result.preparation is not None
    assert result.preparation["source"] == "fixed public constants"


@pytest.fixture(scope="module")
def folder(files: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same hospitals, prepared."""
    columns = {
        "age": {"type": "number", "role": "feature", "range": [0, 120]},
        "chol": {"type": "number", "role": "feature", "range": [80, 610], "required": False},
        "angina": {"type": "flag", "role": "feature"},
        "ill": {"type": "flag", "role": "label"},
    }
    schema = {
        "name": "hospitals",
        "purpose": "study",
        "consents": {"c": ["study"]},
        "consent": "c",
        "missing": [""],
        "columns": columns,
        "source": {"kind": "csv", "files": files},
    }
    return prepare(Schema(**schema), tmp_path_factory.mktemp("out") / "prepared").folder  # type: ignore[arg-type]


def prepared_data(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "prepared",
        "path": str(folder),
        "purpose": "study",
        "test_fraction": 0.25,
        "prepare": asked,
    }


def test_prepared_records_take_the_same_figures_but_keep_their_flags(
    files: str, folder: Path, tmp_path: Path
) -> None:
    asked = {"scaling": "pooled", "imputation": "mean"}
    config = experiment(files, asked) | {"data": prepared_data(folder, asked)}
    result = codex_ray.run(config, out=tmp_path / "run")
    built = assemble(experiment_from(load_yaml(tmp_path / "run" / "config.yaml")))
    pooled = np.concatenate([built.dataset.client(c).features for c in range(4)])
    assert set(np.unique(pooled[:, 2])) == {0.0, 1.0}
    np.testing.assert_allclose(pooled[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(pooled[:, 0].std(), 1, atol=1e-6)
    card = json.loads((folder / "manifest.json").read_text())["card_sha256"]
    assert result.preparation is not None
    assert result.preparation["data_card"] == card
    assert load_yaml(tmp_path / "run" / "config.yaml")["data"]["card"] == card


def test_a_run_goes_on_with_the_records_it_began_with(
    files: str, folder: Path, tmp_path: Path
) -> None:
    asked = {"scaling": "pooled", "imputation": "mean"}
    config = experiment(files, asked) | {"data": prepared_data(folder, asked)}
    config["data"]["card"] = "0" * 64
    with pytest.raises(CodexRayError, match="these are other records than the run began with"):
        codex_ray.run(config, out=tmp_path / "run")
