"""Whole runs in this process: one model, whatever the protocol, interruption or door."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import codex_ray
from codex_ray.certifying.verify import verify
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.federation.sampling import PoissonCohorts
from codex_ray.federation.sessions import Sessions
from codex_ray.federation.state import RoundResult
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.records.console import facts
from codex_ray.records.result import RunResult


def lines(result: RunResult) -> list[dict[str, Any]]:
    """The journal without what may differ from run to run: times."""
    found = [json.loads(x) for x in Path(result.directory, "rounds.jsonl").read_text().splitlines()]
    for line in found:
        del line["seconds"]
    return found


@pytest.mark.parametrize(
    "experiment",
    [
        "silos",
        "devices",
        pytest.param("adaptive", marks=pytest.mark.slow),
        pytest.param("inside", marks=pytest.mark.slow),
        "shared",
    ],
)
def test_every_protocol_gives_the_same_model(experiment, request, finished, tmp_path) -> None:
    config = request.getfixturevalue(experiment)
    kinds = ["ideal", "secagg", "secagg_plus"] + ["clear"] * (
        experiment not in ("inside", "shared")
    )
    own = config["federation"]["protocol"]["kind"]
    results = {
        kind: codex_ray.run(config, {"federation.protocol.kind": kind}, out=tmp_path / kind)
        if kind != own
        else finished(config)
        for kind in kinds
    }
    assert len({r.model_sha256 for r in results.values()}) == 1
    assert len({json.dumps(r.metrics) for r in results.values()}) == 1
    # In the clear no cohort is too small for a sum, so that chance is in no delta.
    secure = [results[kind] for kind in ("ideal", "secagg", "secagg_plus")]
    assert len({json.dumps(r.privacy) for r in secure}) == 1
    for result in results.values():
        assert result.epsilon == pytest.approx(results["ideal"].epsilon, rel=1e-3)
    assert {kind: r.protocol for kind, r in results.items()} == {k: k for k in results}
    assert results["secagg"].masks_recovered > 0
    plain = [results[kind] for kind in kinds if kind in ("ideal", "clear")]
    assert all(result.masks_recovered == 0 for result in plain)


def copy_of(result: RunResult, where: Path) -> Path:
    """The directory of a finished run, to go on from."""
    return Path(shutil.copytree(result.directory, where / "copy"))


class Interrupted(Exception):  # noqa: N818  # the test's own Ctrl-C
    pass


def interrupt_after(rounds: int):
    def watch(result: RoundResult | None) -> None:
        if result is not None and result.round + 1 == rounds:
            raise Interrupted

    return watch


@pytest.mark.parametrize("experiment", ["silos", "devices", "adaptive", "inside", "shared"])
@pytest.mark.parametrize("after", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(
    experiment, after, request, finished, tmp_path
) -> None:
    config = request.getfixturevalue(experiment)
    whole = finished(config)
    with pytest.raises(Interrupted):
        codex_ray.run(config, out=tmp_path / "cut", watch=interrupt_after(after))
    assert not (tmp_path / "cut" / "result.json").exists()
    resumed = codex_ray.run(resume=tmp_path / "cut")
    same = {"seconds", "directory"}
    assert resumed.model_dump(exclude=same) == whole.model_dump(exclude=same)
    assert lines(resumed) == lines(whole)
    for name in ("model.safetensors", "privacy.json", "config.yaml"):
        assert (tmp_path / "cut" / name).read_bytes() == Path(whole.directory, name).read_bytes()


def test_a_resumed_run_has_both_of_fedadams_moments(silos, tmp_path) -> None:
    adam = {"federation.algorithm": {"kind": "fedadam", "learning_rate": 0.05}}
    whole = codex_ray.run(silos, adam, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        codex_ray.run(silos, adam, out=tmp_path / "cut", watch=interrupt_after(2))
    resumed = codex_ray.run(resume=tmp_path / "cut")
    plain = codex_ray.run(silos, out=tmp_path / "plain")
    assert resumed.model_sha256 == whole.model_sha256 != plain.model_sha256


def test_a_run_resumes_from_before_its_first_round(silos, finished, tmp_path) -> None:
    def at_once(result: RoundResult | None) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        codex_ray.run(silos, out=tmp_path / "cut", watch=at_once)
    resumed = codex_ray.run(resume=tmp_path / "cut")
    assert resumed.model_sha256 == finished(silos).model_sha256


def test_another_seed_gives_another_model(silos, finished, tmp_path) -> None:
    other = codex_ray.run(silos, {"seed": 2}, out=tmp_path / "2")
    assert finished(silos).model_sha256 != other.model_sha256


def test_the_same_seed_gives_the_same_model(silos, finished, tmp_path) -> None:
    again = codex_ray.run(silos, out=tmp_path / "again")
    assert finished(silos).model_sha256 == again.model_sha256


def test_an_unseeded_run_never_repeats_and_says_so(silos, tmp_path) -> None:
    results = [codex_ray.run(silos, {"seed": None}, out=tmp_path / str(i)) for i in range(2)]
    assert results[0].model_sha256 != results[1].model_sha256
    assert "never written down" in results[0].randomness
    assert "SIMULATION" not in json.dumps(results[0].privacy)
    assert results[0].seed is None


def test_an_unseeded_run_can_be_resumed(silos, tmp_path) -> None:
    with pytest.raises(Interrupted):
        codex_ray.run(silos, {"seed": None}, out=tmp_path / "cut", watch=interrupt_after(1))
    assert codex_ray.run(resume=tmp_path / "cut").rounds == 3


def test_a_seeded_run_says_that_it_is_a_simulation(silos, finished) -> None:
    result = finished(silos)
    assert result.randomness.startswith("SIMULATION")
    assert all(s["assumptions"][0].startswith("SIMULATION") for s in result.privacy)


def test_the_result_holds_what_was_promised(silos, finished) -> None:
    directory = Path(finished(silos).directory)
    result = json.loads((directory / "result.json").read_text())
    promised = {
        "rounds", "seconds", "metrics", "privacy", "protocol", "clients", "dropped_total",
        "masks_recovered", "bytes_up_per_client", "model_sha256", "seed",
    }  # fmt: skip
    assert promised <= result.keys()
    spend = result["privacy"][0]
    assert {
        "unit", "epsilon", "delta", "accountant", "neighbouring_relation", "sampling",
    } <= spend.keys()  # fmt: skip
    assert len(result["privacy"]) == result["clients"] == 6
    assert {p.name for p in directory.iterdir()} == {
        "config.yaml", "rounds.jsonl", "log.jsonl", "metrics.prom", "result.json", "privacy.json",
        "privacy.md",
        "model.safetensors", "tensorboard", "checkpoint", "report.html", "report.png",
    }  # fmt: skip


def test_a_client_pays_for_the_rounds_that_its_summand_was_in(silos, finished) -> None:
    """Against a recount from the drawn dropouts, which knows nothing of the ledger."""
    from codex_ray.assembly import assemble
    from codex_ray.config import experiment_from
    from codex_ray.types import Stage

    result = finished(silos)
    assembled = assemble(experiment_from(silos))
    dropouts = assembled.experiment.federation.dropouts
    event = assembled.experiment.trainer.event().event
    for spend in result.privacy:
        stages = [
            dropouts.silent_from(spend["client"], r, assembled.randomness.public) for r in range(3)
        ]
        released = sum(stage in (None, Stage.UNMASK) for stage in stages)
        assert spend["releases"] == released
        expected = epsilon_of(((event, released),), 1e-5) if released else 0.0
        assert spend["epsilon"] == pytest.approx(expected, abs=1e-6)
    assert {s["releases"] for s in result.privacy} != {3}, "nobody dropped out: a test of nothing"


def test_the_budget_stops_the_run_before_it_is_overspent(silos, tmp_path) -> None:
    from codex_ray.config import experiment_from

    event = experiment_from(silos).trainer.event().event
    two = epsilon_of(((event, 2),), 1e-5)
    quiet = {"federation.dropouts": {}, "rounds": 9, "budget.epsilon": two + 1e-6}
    result = codex_ray.run(silos, quiet, out=tmp_path / "exact")
    assert (result.rounds, result.stopped) == (2, "budget")
    assert result.epsilon == pytest.approx(two, abs=1e-6)
    less = codex_ray.run(silos, quiet | {"budget.epsilon": two - 1e-6}, out=tmp_path / "less")
    assert less.rounds == 1


def test_a_budget_for_nothing_runs_nothing(silos, tmp_path) -> None:
    result = codex_ray.run(silos, {"budget.epsilon": 1e-3}, out=tmp_path / "run")
    assert (result.rounds, result.stopped, result.epsilon) == (0, "budget", 0.0)
    assert "accuracy" in result.metrics


def test_a_round_without_a_sum_keeps_its_reservation(silos, tmp_path) -> None:
    """Everyone falls silent after the masked input: the round aborts, is charged, and changes
    nothing.
    """
    lost = {"federation.dropouts": {"after_masked_input": 0.999999}, "rounds": 2}
    result = codex_ray.run(silos, lost, out=tmp_path / "run")
    assert result.rounds_aborted == 2
    assert [s["releases"] for s in result.privacy] == [2] * 6
    assert all(line["aborted"] and not line["survivors"] for line in lines(result))
    start = codex_ray.run(silos, {"budget.epsilon": 1e-3}, out=tmp_path / "start")
    assert result.model_sha256 == start.model_sha256


def test_both_units_can_be_claimed_at_once_and_are_not_merged(silos, tmp_path) -> None:
    both = {
        "federation.mechanism": {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 2.0},
    }
    result = codex_ray.run(silos, both, out=tmp_path / "run")
    assert [s["unit"] for s in result.privacy] == ["record"] * 6 + ["client"]


def test_empty_cohorts_are_rounds_like_any_other(devices, tmp_path) -> None:
    few = {"federation.sampler.rate": 0.03, "federation.protocol.kind": "clear", "rounds": 10}
    result = codex_ray.run(devices, few, out=tmp_path / "run")
    cohorts = [line["cohort"] for line in lines(result)]
    assert 0 in cohorts and max(cohorts) > 0
    assert result.rounds_aborted == 0 and result.privacy[0]["releases"] == 10


def test_an_output_directory_that_holds_a_run_is_left_alone(silos, finished, tmp_path) -> None:
    run = copy_of(finished(silos), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    with pytest.raises(RunDirectoryError, match="holds another run"):
        codex_ray.run(silos, out=run)
    with pytest.raises(RunDirectoryError, match="has ended"):
        codex_ray.run(resume=run)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_a_finished_run_can_be_given_more_rounds(silos, finished, tmp_path) -> None:
    more = codex_ray.run(None, {"rounds": 5}, resume=copy_of(finished(silos), tmp_path))
    whole = codex_ray.run(silos, {"rounds": 5}, out=tmp_path / "whole")
    assert more.model_sha256 == whole.model_sha256 and more.rounds == 5


def test_more_rounds_leave_less_of_delta_and_the_certificate_says_so(
    devices, finished, tmp_path
) -> None:
    """The chance of a cohort too small grows with the rounds, and is taken off delta for all."""
    run = copy_of(finished(devices), tmp_path)
    more = codex_ray.run(None, {"rounds": 5}, resume=run)
    whole = codex_ray.run(devices, {"rounds": 5}, out=tmp_path / "whole")
    assert more.model_sha256 == whole.model_sha256 and more.epsilon == whole.epsilon
    assert verify(run).differences == ()


def test_a_resumed_run_keeps_its_configuration(silos, tmp_path) -> None:
    with pytest.raises(Interrupted):
        codex_ray.run(silos, out=tmp_path / "cut", watch=interrupt_after(1))
    with pytest.raises(ConfigError, match=r"trainer\.clip_norm: a resumed run keeps"):
        codex_ray.run(None, {"trainer.clip_norm": 2}, resume=tmp_path / "cut")


def test_debug_figures_are_marked_and_absent_by_default(silos, finished, tmp_path) -> None:
    quiet = finished(silos)
    assert all(line["debug"] == {} for line in lines(quiet))
    loud = codex_ray.run(silos, {"debug": True}, out=tmp_path / "loud")
    assert all(line["debug"]["update_norm"] > 0 for line in lines(loud))
    assert loud.model_sha256 == quiet.model_sha256
    with pytest.raises(ConfigError, match="seeded simulations only"):
        codex_ray.run(silos, {"debug": True, "seed": None}, out=tmp_path / "no")


def test_bad_numbers_count_as_zero_and_are_counted(silos, tmp_path) -> None:
    """A model that overflows on large inputs: those records are lost, and the run goes on."""
    silos["model"] = "tests.federation.test_runs:overflowing"
    result = codex_ray.run(silos, {"debug": True}, out=tmp_path / "run")
    debug = [line["debug"] for line in lines(result)]
    assert all(np.isfinite(value) for figures in debug for value in figures.values())
    assert sum(figures["records_not_finite"] for figures in debug) > 0
    assert all(0 <= figures["records_clipped_fraction"] <= 1 for figures in debug)
    assert np.isfinite(result.metrics["loss"])

    silos["trainer"] = {"kind": "sgd", "learning_rate": 0.1}
    silos["budget"] = {"epsilon": None}
    mechanism = {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.0}
    silos["federation"] = {"mechanism": mechanism}
    plain = codex_ray.run(silos, {"debug": True}, out=tmp_path / "plain")
    assert lines(plain)[0]["debug"]["updates_not_finite"] > 0
    assert np.isfinite(plain.metrics["loss"])


class Overflowing(torch.nn.Linear):
    """Infinite, with gradients that are no numbers, where the first feature is large."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scale = torch.where(features[:, :1] > 0.3, torch.inf, 1.0)
        if not self.training:
            scale = torch.ones_like(scale)
        return super().forward(features) * scale


def overflowing() -> torch.nn.Module:
    return Overflowing(3, 1)


def test_where_cohorts_are_hidden_nothing_tells_who_took_part(devices, finished, tmp_path) -> None:
    """Bytes or releases by client would: they count the rounds that each was in."""
    result = finished(devices)
    assert result.bytes_up == {} and result.bytes_up_per_client > 0
    both = {
        "trainer": {
            "kind": "dp_sgd", "learning_rate": 0.1, "clip_norm": 1.0, "noise_multiplier": 1.0,
            "batch_size": 5, "batches": {"kind": "poisson", "sampling_rate": 0.5},
        }
    }  # fmt: skip
    mixed = codex_ray.run(devices, both, out=tmp_path / "both")
    assert [(s["unit"], s["client"]) for s in mixed.privacy] == [("record", None), ("client", None)]
    ledgers = json.loads((tmp_path / "both" / "privacy.json").read_text())["ledgers"]
    assert all(len(ledger["paid"]) == 1 for ledger in ledgers)
    assert any("hidden" in text for text in mixed.privacy[1]["assumptions"])


def test_cohorts_that_may_be_too_small_for_a_sum_are_refused(devices, tmp_path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"a cohort is too small with probability .* raise the rate or the population",
    ):
        codex_ray.run(devices, {"federation.sampler.rate": 0.2}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_budget_without_noise_is_refused(silos, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"budget\.epsilon is 50, but nothing adds noise"):
        codex_ray.run(silos, {"trainer": {"kind": "sgd", "learning_rate": 1}}, out=tmp_path / "r")


def test_a_given_module_is_copied_and_never_changed(silos, tmp_path) -> None:
    """Hooks would be put on twice, and a second run would start from the first one's weights."""
    import torch

    module = torch.nn.Linear(3, 1)
    before = [p.clone() for p in module.parameters()]
    results = [codex_ray.run(silos, model=module, out=tmp_path / str(i)) for i in range(2)]
    assert results[0].model_sha256 == results[1].model_sha256
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_two_processes_cannot_run_one_directory(silos, tmp_path) -> None:
    def meanwhile(result: RoundResult | None) -> None:
        with pytest.raises(RunDirectoryError, match="another process is running it"):
            codex_ray.run(resume=tmp_path / "run")

    codex_ray.run(silos, out=tmp_path / "run", watch=meanwhile)


def test_a_cohort_too_small_for_a_secure_sum_is_a_round_of_noise(
    devices, tmp_path, monkeypatch
) -> None:
    """It is not drawn again, and its round is not missing: both would show who was there."""
    models = set()
    for cohort in ((), (3,), (3, 5)):
        monkeypatch.setattr(PoissonCohorts, "sample", lambda *_, cohort=cohort, **__: cohort)
        result = codex_ray.run(devices | {"rounds": 1}, out=tmp_path / str(len(cohort)))
        (line,) = lines(result)
        assert line["aborted"] is None
        assert line["cohort"] == len(cohort) and line["survivors"] == 0
        assert result.privacy[0]["releases"] == 1
        models.add(result.model_sha256)
    assert len(models) == 1  # Only the noise has moved it.


def test_without_a_claim_such_a_cohort_has_no_sum(devices, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(PoissonCohorts, "sample", lambda *_, **__: (3, 5))
    devices["federation"]["mechanism"] = {"kind": "none"}
    (line,) = lines(codex_ray.run(devices | {"rounds": 1}, out=tmp_path / "none"))
    assert "smallest_cohort" in line["aborted"]


@pytest.mark.parametrize("kind", ["secagg", "one_shot"])
@pytest.mark.parametrize("identity", [b"x", bytes(64), "another's"])
def test_a_client_with_an_identity_of_no_use_is_not_admitted(
    identity, kind, silos, tmp_path, monkeypatch
) -> None:
    """It drops out of its rounds, and takes nobody with it but whom it copied."""
    honest = Sessions.identity

    def other(self, client):
        own = honest(self, client)
        if client != 3:
            return own
        return identity if isinstance(identity, bytes) else honest(self, 4)

    monkeypatch.setattr(Sessions, "identity", other)
    silos["federation"] = {"protocol": {"kind": kind}}
    result = codex_ray.run(silos | {"rounds": 1}, out=tmp_path / "run")
    (line,) = lines(result)
    lost = 1 if isinstance(identity, bytes) else 2
    assert line["aborted"] is None and line["dropped"] == {"enrol": lost}
    assert line["survivors"] == 6 - lost


def test_how_rarely_a_noised_sum_wraps_is_printed(inside, silos, finished) -> None:
    noised = finished(inside)
    assert 0 < noised.wrap_probability < 0.01
    assert dict(facts(noised))["wraps around"].startswith(f"{noised.wrap_probability:.1e} ")
    assert "wraps around" not in dict(facts(finished(silos)))
