"""A certificate says what was done, is refused where it would be false, and is the same again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import dp_accounting as dp
import pytest
from small_runs import CONFIGS, HIDDEN, RECORDS, certified

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.certifying.issue import (
    Evidence,
    certificate_of,
    document_of,
    extrapolated,
    read_lines,
    sha256_of,
)
from codex_ray.certifying.terms import Terms, delta_warnings
from codex_ray.certifying.verify import verify
from codex_ray.cli import main
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import HostLost, PrivacyError
from codex_ray.federation.messages import TrainTask
from codex_ray.federation.sampling import PoissonCohorts
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.batches import ShuffledBatches
from codex_ray.privacy.ledger import Ledger, epsilon_of
from codex_ray.privacy.noise_cohort import NoiseCohort
from codex_ray.records.certificate import read_document
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.keys import FOLDER_VARIABLE, PRIVATE_NAME, PUBLIC_NAME
from codex_ray.records.run_directory import RunDirectory
from codex_ray.running import finish, rounds
from codex_ray.types import Stage
from codex_ray.wire import kind_of


class Interrupted(Exception):  # noqa: N818  # the test's own Ctrl-C
    pass


def interrupt_after(count: int) -> Any:
    def watch(result: Any) -> None:
        if result is not None and result.round + 1 == count:
            raise Interrupted

    return watch


QUIET = {"federation.dropouts": {}, "seed": None}
MASKED = RECORDS | {"federation": RECORDS["federation"] | {"protocol": {"kind": "secagg_plus"}}}
"""What is sent shows nothing until it is unmasked."""


def evidence_of(run: Path, **changes: Any) -> Evidence:
    directory = RunDirectory.open(run)
    document = read_document(directory)
    found = {
        "lines": read_lines(directory),
        "ledgers": [Ledger.from_json(dict(data)) for data in document.ledgers],
        "unsettled": [],
        "config": sha256_of(directory.config),
        "model": sha256_of(directory.model),
    }
    return Evidence(**(found | changes))


def terms_of(name: str) -> Terms:
    experiment = experiment_from(CONFIGS[name])
    assembled = assemble(experiment)
    return Terms.of(assembled)


def test_it_states_the_ten_parts(originals) -> None:
    found = json.loads((originals("hidden") / "privacy.json").read_text())["certificate"]
    record, client = found["claims"]
    assert found["setting"]["noise_added"].startswith("local") and "trusted" in str(
        found["setting"]
    )
    assert (record["unit"], client["unit"]) == ("record", "client")
    assert client["neighbours"] == "add_or_remove_one"
    assert found["public"] == {"population": 40, "expected_cohort": 20.0, "dimension": 650}
    assert client["mechanism"]["noise_deviation"] == 0.5 and client["mechanism"]["clip_norm"] == 0.5
    assert client["sampling"]["assumed"] == "Poisson sampling at rate 0.5"
    assert client["sampling"]["implemented"].startswith(client["sampling"]["assumed"])
    assert client["composition"]["releases"] == 3 and client["composition"]["rounds"] == 3
    assert client["composition"]["holders"] is None, "that would count rounds of hidden clients"
    spent = client["accounting"]
    assert spent["epsilon"] <= spent["bound"] and spent["discretisation"] == 1e-3
    assert spent["unsampled"]["participations"] == 2
    assert {"mu", "epsilons", "true_positive_rates"} <= spent["curve"].keys()
    assert {gap["what"] for gap in found["not_covered"]} >= {"search", "metrics", "floating point"}
    assert found["audit"] is None
    assert all(len(hash) == 64 for hash in found["hashes"].values())


def test_the_old_parts_of_the_file_are_still_there(originals) -> None:
    run = originals("records")
    found = json.loads((run / "privacy.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert found["spends"] == result["privacy"] and found["randomness"] == result["randomness"]
    assert [holder for holder, _ in found["ledgers"][0]["paid"]] == list(range(6))


def test_holders_are_counted_by_their_releases(originals) -> None:
    run = originals("records")
    part = read_document(RunDirectory.open(run)).certificate.claims[0].composition
    spends = json.loads((run / "result.json").read_text())["privacy"]
    releases = [spend["releases"] for spend in spends]
    assert part.holders == {str(n): releases.count(n) for n in sorted(set(releases))}
    assert part.releases == max(releases)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_page_has_every_part_and_is_one_page(name, originals) -> None:
    text = (originals(name) / "privacy.md").read_text()
    for heading in ("1. Setting", "2. Unit", "3. Neighbours", "4. Mechanism", "5. Sampling",
                    "6. Composition", "7. Accounting", "8. Not covered", "9. Audit",
                    "10. What this is about"):  # fmt: skip
        assert heading in text
    assert "Signed with Ed25519 by SHA256:" in text and len(text.splitlines()) < 100


def test_a_replayed_run_has_the_same_certificate_to_the_byte(originals, tmp_path) -> None:
    with pytest.raises(Interrupted):
        codex_ray.run(RECORDS, out=tmp_path / "cut", watch=interrupt_after(1))
    codex_ray.run(resume=tmp_path / "cut")
    certified(tmp_path / "cut")
    for name in ("privacy.json", "privacy.md"):
        assert (tmp_path / "cut" / name).read_bytes() == (originals("records") / name).read_bytes()


class LyingBatches(ShuffledBatches):
    """Shuffled batches that call themselves Poisson, and have a Poisson event."""

    kind: str = "poisson"  # type: ignore[assignment]

    def event(self, noise_multiplier: float) -> Any:
        release = dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(noise_multiplier))
        return dp.SelfComposedDpEvent(release, 1)


def test_shuffled_batches_that_are_accounted_as_poisson_get_no_certificate(originals) -> None:
    terms = terms_of("records")
    honest = document_of(terms, evidence_of(originals("records")))
    assert honest.refused is None
    trainer = terms.experiment.trainer.model_copy(update={"batches": LyingBatches()})
    experiment = terms.experiment.model_copy(update={"trainer": trainer})
    lying = Terms(experiment, terms.population, terms.dimension)
    document = document_of(lying, evidence_of(originals("records")))
    assert document.certificate is None and document.refused is not None
    assert "assumes Poisson sampling at rate 0.5" in document.refused
    assert "what is implemented is shuffled batches" in document.refused
    assert document.spends == honest.spends, "the figures stay, without anybody's word for them"


def test_another_rate_than_is_accounted_gets_no_certificate(originals) -> None:
    terms = terms_of("hidden")
    sampler = PoissonCohorts(rate=0.4)
    federation = terms.experiment.federation.model_copy(update={"sampler": sampler})
    experiment = terms.experiment.model_copy(update={"federation": federation})
    other = Terms(experiment, terms.population, terms.dimension)
    assert "no certificate" in str(document_of(other, evidence_of(originals("hidden"))).refused)


def test_cohorts_of_one_size_are_no_poisson_cohorts(originals, monkeypatch) -> None:
    """Whether it is a function that is known not to draw that way, or sizes that show it."""
    terms, lines = terms_of("hidden"), read_lines(RunDirectory.open(originals("hidden")))
    charge = terms.charges[1]
    event = charge.event(None)
    from codex_ray.certifying.sampling import agreed_sampling

    assert agreed_sampling(terms, charge, [event], lines=lines).credited
    with pytest.raises(PrivacyError, match="60 of them have 20 clients"):
        agreed_sampling(terms, charge, [event], lines=sized([20] * 60))
    with pytest.raises(PrivacyError, match="cannot have been drawn by Poisson"):
        agreed_sampling(terms, charge, [event], lines=sized([33, 36, 38, 32, 35]))
    monkeypatch.setattr(PoissonCohorts, "sample", lambda *_, **__: tuple(range(20)))
    with pytest.raises(PrivacyError, match="what is implemented is cohorts of kind poisson"):
        agreed_sampling(terms, charge, [event], lines=lines)


def sized(cohorts: list[int]) -> list[dict[str, int]]:
    return [{"cohort": size} for size in cohorts]


def test_sound_cohorts_pass_a_thousand_times(originals) -> None:
    from codex_ray.certifying.sampling import agreed_sampling
    from codex_ray.randomness import Randomness

    terms = terms_of("hidden")
    charge, sampler = terms.charges[1], terms.experiment.federation.sampler
    for seed in range(300):
        sizes = [len(sampler.sample(40, Randomness.of(seed), round=r)) for r in range(20)]
        agreed_sampling(terms, charge, [charge.event(None)], lines=sized(sizes))


def test_a_run_without_noise_has_no_certificate_and_says_why(tmp_path) -> None:
    plain = {"trainer": {"kind": "sgd", "learning_rate": 0.1}, "budget.epsilon": None}
    codex_ray.run(RECORDS, plain, out=tmp_path / "run")
    document = certified(tmp_path / "run")
    assert "no noise is added anywhere" in str(document.refused)
    assert "There is no certificate" in (tmp_path / "run" / "privacy.md").read_text()
    assert verify(tmp_path / "run").status == 1


def test_a_journal_that_does_not_explain_the_ledger_is_refused(originals) -> None:
    evidence = evidence_of(originals("records"))
    short = evidence_of(originals("records"), lines=evidence.lines[:2])
    with pytest.raises(PrivacyError, match=r"rounds\.jsonl does not explain ledgers\.0"):
        certificate_of(terms_of("records"), short)
    old = [{k: v for k, v in line.items() if k != "charged"} for line in evidence.lines]
    with pytest.raises(PrivacyError, match="written by an older version"):
        certificate_of(terms_of("records"), evidence_of(originals("records"), lines=old))


def test_an_audit_is_part_of_it_and_a_failed_one_refuses_it(originals) -> None:
    verdict = {"name": "noise", "kind": "check", "passed": True, "words": "all of it is there"}
    evidence = evidence_of(originals("records"), audit=[verdict])
    assert certificate_of(terms_of("records"), evidence).audit == (verdict,)
    failed = evidence_of(originals("records"), audit=[verdict | {"passed": False}])
    with pytest.raises(PrivacyError, match="the audit contradicts it: all of it is there"):
        certificate_of(terms_of("records"), failed)


def test_without_a_key_it_is_written_and_says_that_nobody_signed(
    originals, monkeypatch, tmp_path, caplog
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    codex_ray.run(RECORDS, out=tmp_path / "run")
    document = certified(tmp_path / "run")
    assert document.signature is None and document.certificate is not None
    assert (
        "Not signed: codex-ray keys init makes a key"
        in (tmp_path / "run" / "privacy.md").read_text()
    )
    signed = read_document(RunDirectory.open(originals("records")))
    assert document.certificate == signed.certificate
    (tmp_path / "none").mkdir(mode=0o700)
    (tmp_path / "none" / PRIVATE_NAME).write_text("no key")
    (tmp_path / "none" / PRIVATE_NAME).chmod(0o644)
    assert certified(tmp_path / "run").signature is None, "a finished run is never lost to its key"
    assert "chmod 600" in caplog.text


class LosesAHost(LocalTransport):
    """A transport that loses its host in the middle of chosen exchanges."""

    def __init__(self, assembled: Any, at: set[int]) -> None:
        self._assembled, self._at, self._count = assembled, at, 0
        super().__init__(assembled.host())

    def exchange(self, outbox: Any) -> Any:
        self._count += 1
        if self._count in self._at:
            raise HostLost("killed by the test")
        return super().exchange(outbox)

    def recover(self) -> None:
        self.__init__(self._assembled, {n - self._count for n in self._at})  # type: ignore[misc]


@pytest.mark.parametrize("sampler", [{"kind": "all"}, {"kind": "poisson", "rate": 0.9}])
def test_every_attempt_of_an_unseeded_round_is_paid_for_and_accounted(sampler, tmp_path, keys):
    config = RECORDS | {
        "seed": None,
        "federation": {"protocol": {"kind": "ideal"}, "sampler": sampler},
    }
    assembled = assemble(experiment_from(config))
    from codex_ray.config import to_yaml
    from codex_ray.running import begin

    directory = RunDirectory.create(tmp_path / "run", config=to_yaml(assembled.experiment))
    begin(assembled, directory)
    lines = list(rounds(assembled, directory, LosesAHost(assembled, {2, 3})))
    finish(assembled, directory)
    certified(tmp_path / "run")
    assert [line.attempts for line in lines] == [1, 1, 1] or sum(x.attempts for x in lines) == 5
    assert sum(len(line.charged) for line in lines) == 5
    found = verify(tmp_path / "run", trust=keys / PUBLIC_NAME)
    assert found.differences == () and found.status == 0
    if sampler["kind"] == "all":
        paid = read_document(directory).certificate.claims[0].composition
        assert paid.releases == 5 and paid.holders == {"5": 6}
    text = (tmp_path / "run" / "rounds.jsonl").read_text()
    cheaper = [json.loads(line) for line in text.splitlines()]
    for line in cheaper:
        line["charged"], line["attempts"] = line["charged"][-1:], 1
    (tmp_path / "run" / "rounds.jsonl").write_text("".join(json.dumps(x) + "\n" for x in cheaper))
    assert any("ledgers.0" in line for line in verify(tmp_path / "run").differences)


def killed_in_round(number: int, monkeypatch: pytest.MonkeyPatch, out: Path, config: Any) -> None:
    """Leaves a run whose process died in the middle of a round, after it was reserved."""
    sent = LocalTransport.exchange

    def exchange(self: Any, outbox: Any) -> Any:
        frame = next(iter(outbox.values()))
        if kind_of(frame).stage is Stage.TRAIN and TrainTask.from_frame(frame).round == number:
            raise Interrupted
        return sent(self, outbox)

    monkeypatch.setattr(LocalTransport, "exchange", exchange)
    with pytest.raises(Interrupted):
        codex_ray.run(config, QUIET, out=out)
    monkeypatch.setattr(LocalTransport, "exchange", sent)


@pytest.mark.parametrize(
    ("config", "charged"),
    [(MASKED, [1, 2, 1]), (RECORDS, [1, 1, 1])],
    ids=["begun again", "perhaps opened"],
)
def test_what_a_killed_process_reserved_is_accounted_when_the_run_goes_on(
    config, charged, monkeypatch, tmp_path, keys
) -> None:
    killed_in_round(1, monkeypatch, tmp_path / "run", config)
    left = Checkpoints(tmp_path / "run" / "checkpoint").load()
    assert left.round == 1 and left.totals.unsettled == [list(range(6))]
    codex_ray.run(resume=tmp_path / "run")
    certified(tmp_path / "run")
    lines = read_lines(RunDirectory.open(tmp_path / "run"))
    assert [len(line["charged"]) for line in lines] == charged
    assert verify(tmp_path / "run", trust=keys / PUBLIC_NAME).status == 0


def test_a_reservation_that_no_round_settles_stays_in_the_account(
    monkeypatch, tmp_path, keys
) -> None:
    event = experiment_from(RECORDS).trainer.event().event
    two = epsilon_of(((event, 2),), 1e-5)
    config = MASKED | {"budget": {"epsilon": two + 1e-6, "delta": 1e-5}}
    killed_in_round(1, monkeypatch, tmp_path / "run", config)
    result = codex_ray.run(resume=tmp_path / "run")
    assert (result.rounds, result.stopped) == (1, "budget")
    document = certified(tmp_path / "run")
    part = document.certificate.claims[0].composition
    assert len(part.unsettled) == 1 and part.releases == 2
    assert verify(tmp_path / "run", trust=keys / PUBLIC_NAME).status == 0


def test_without_amplification_it_is_the_figure_of_ten_participations() -> None:
    """q = .01, sigma = 1, T = 1000: 1.828 with hidden samples, 17.86 if ten of them are known."""
    from codex_ray.certifying.issue import _unsampled

    event = dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.0))
    found = _unsampled(Ledger("client", 1e-5), ((event, 1000),))
    assert found is not None and found.participations == 10
    assert found.epsilon == pytest.approx(17.86, abs=0.02)
    assert _unsampled(Ledger("client", 1e-5), ((dp.GaussianDpEvent(1.0), 10),)) is None


def test_an_extrapolated_epsilon_is_that_of_the_larger_run_and_stands_beside_the_literal_one() -> (
    None
):
    terms = terms_of("hidden")
    assert extrapolated(terms, rounds=1000) is None
    federation = terms.experiment.federation
    larger = {"noise_multiplier": 1.0, "noise_cohort": NoiseCohort(cohort=100, population=10_000)}
    noisy = federation.mechanism.model_copy(update=larger)
    federation = federation.model_copy(update={"mechanism": noisy})
    experiment = terms.experiment.model_copy(update={"federation": federation})
    scaled = Terms(experiment, terms.population, terms.dimension)
    found = extrapolated(scaled, rounds=1000)
    assert found is not None
    assert found.epsilon == pytest.approx(1.828, abs=0.002)
    assert "NOT of this run" in found.words and "100 of 10000 clients" in found.words


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        (1e-5, []),
        (0.02, ["there are 40 clients: from 1/40 = 0.025"]),
        (0.03, ["there are 40 clients: from 1/40 = 0.025"]),
        (0.04, ["there are 40 clients", "there are 30 records a client"]),
    ],
)
def test_a_delta_that_gives_one_away_is_warned_of(delta, said) -> None:
    config = HIDDEN | {"budget": {"epsilon": None, "delta": delta}}
    found = delta_warnings(experiment_from(config))
    if delta == 0.02:
        assert found == ()
        return
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))


def test_the_warning_is_printed_where_the_cost_is(tmp_path, capsys) -> None:
    import yaml

    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(RECORDS | {"budget": {"delta": 0.05}}))
    assert main(["account", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: budget.delta is 0.05, and there are 30 records a client" in said
    assert math.isclose(experiment_from(load_yaml(file)).budget.delta, 0.05)
