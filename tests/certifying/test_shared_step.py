"""The certificate of distributed DP-SGD: one claim about records, whose noise the clients bring."""

from __future__ import annotations

from pathlib import Path

import dp_accounting as dp
import pytest

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.certifying.sampling import agreed_sampling
from codex_ray.certifying.terms import Terms, delta_warnings
from codex_ray.certifying.verify import verify
from codex_ray.cli import main
from codex_ray.config import experiment_from, load_yaml, override
from codex_ray.errors import PrivacyError
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.records.certificate import read_document
from codex_ray.records.keys import PUBLIC_NAME
from codex_ray.records.run_directory import RunDirectory

FILE = Path(__file__).resolve().parent.parent.parent / "experiments" / "shared_noise.yaml"
SHORT = {
    "rounds": 2,
    "federation.mechanism.noise_multiplier": 10.0,
    "trainer.sampling_rate": 0.5,
    "trainer.batch_size": 225,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, signing: None) -> Path:
    """The directory of a run of two rounds, signed."""
    out = tmp_path_factory.mktemp("shared") / "run"
    codex_ray.run(FILE, SHORT, out=out)
    return out


def test_it_is_verified_with_the_key_and_told_apart_without(run, keys, capsys) -> None:
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert (found.status, found.differences) == (0, ())
    assert main(["account", "--verify", str(run)]) == 2
    assert "give the public key" in capsys.readouterr().out


def test_it_says_who_brings_the_noise_and_how_records_are_drawn(run) -> None:
    certificate = read_document(RunDirectory.open(run)).certificate
    assert certificate is not None
    (claim,) = certificate.claims
    assert (claim.name, claim.unit) == ("L2", "record")
    drawn, part = claim.sampling, claim.mechanism
    assert drawn.implemented == "Poisson sampling at rate 0.5 (records of a round)"
    assert drawn.assumed == "Poisson sampling at rate 0.5" and drawn.credited
    assert part.kind == "distributed_dp_sgd with discrete_gaussian noise"
    assert (part.clip_norm, part.arithmetic) == (0.25, "whole numbers")
    # Nine of ten must be in a sum, and one of them counts for nothing.
    assert "fewest honest survivors (8)" in part.noise_on
    assert part.noise_deviation == pytest.approx(10 * 0.25)
    assert "gradient of each record" in part.clipping and "by itself" in part.clipping
    assert claim.composition.holders == {"2": 10}
    assert "distributed" in certificate.setting.noise_added
    assert "floating point" not in {gap.what for gap in certificate.not_covered}
    spends = read_document(RunDirectory.open(run)).spends
    assert not any("floating-point" in said for spend in spends for said in spend["assumptions"])


def test_sampling_that_is_not_done_is_not_credited(run) -> None:
    experiment = experiment_from(override(load_yaml(FILE), SHORT))
    terms = Terms.of(assemble(experiment))
    (charge,) = terms.charges
    inner = charge.event(None).event
    assert agreed_sampling(terms, charge, [charge.event(None)], lines=[]).credited
    lower = dp.PoissonSampledDpEvent(0.25, inner)
    with pytest.raises(PrivacyError, match=r"rate 0\.25.*implemented is Poisson .*rate 0\.5"):
        agreed_sampling(terms, charge, [lower], lines=[])


def test_another_way_to_draw_is_known_for_what_it_is(monkeypatch) -> None:
    """It may say the same rate: what counts is the function that draws."""
    experiment = experiment_from(override(load_yaml(FILE), SHORT))
    terms = Terms.of(assemble(experiment))
    (charge,) = terms.charges
    event = charge.event(None)

    def steps(self, model, params, records, *, streams, clip_norm=None):
        yield from ()

    monkeypatch.setattr(DistributedDpSgd, "steps", steps)
    with pytest.raises(PrivacyError, match="implemented is batches of kind distributed_dp_sgd"):
        agreed_sampling(terms, charge, [event], lines=[])


def test_a_delta_too_large_for_so_many_records_is_told() -> None:
    found = delta_warnings(
        experiment_from(override(load_yaml(FILE), SHORT | {"budget.delta": 0.005}))
    )
    assert len(found) == 1 and "450 records in all" in found[0]
    assert delta_warnings(experiment_from(override(load_yaml(FILE), SHORT))) == ()
