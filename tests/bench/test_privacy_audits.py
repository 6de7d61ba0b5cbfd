"""Audits in the benchmark: sound builds pass, broken ones are caught, and a blind audit shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from codex_ray.assurance.broken_builds import (
    ForgottenDropouts,
    NoClip,
    QuarterNoise,
    SameSeedNoise,
    ShuffledAsPoisson,
)
from codex_ray.bench import privacy_audits, privacy_broken
from codex_ray.bench.parts import measured
from codex_ray.bench.privacy import PARTS
from codex_ray.bench.privacy_audits import Probe, Target
from codex_ray.bench.privacy_broken import builds
from codex_ray.bench.small_runs import with_seed
from codex_ray.config import experiment_from
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_inside import SkellamNoise
from codex_ray.randomness import SeedTree

TREE = SeedTree(bytes(32))
D = 4096
BUILDS = {build.name: build for build in builds()}


def test_sound_builds_pass_and_the_bounds_are_not_blind() -> None:
    client, record = measured(PARTS, ["audit-sound"], scale=0.05)
    assert client.holds and record.holds
    for row in (client, record):
        (mean,) = (one.value for one in row.figures if one.what.startswith("mean bound"))
        assert 0.1 * 4 < mean < 4


def test_an_audit_that_cries_wolf_misses_the_bar(monkeypatch) -> None:
    honest = privacy_audits.audited

    def loud(run, canaries):
        return [replace(one, found=one.claimed + 0.01) for one in honest(run, canaries)]

    monkeypatch.setattr(privacy_audits, "audited", loud)
    client, record = measured(PARTS, ["audit-sound"], scale=0.05)
    assert not client.holds and not record.holds
    assert "1 of 1 bounds above the claim" in client.found
    monkeypatch.setattr(privacy_audits, "audited", lambda *_: [])
    with pytest.raises(ValueError):
        measured(PARTS, ["audit-sound"], scale=0.05)


def test_a_probe_is_the_sum_of_everybody_and_knows_the_others() -> None:
    probe = Probe.of(500)
    quiet = probe.seen(1e-9, TREE.stream("quiet"))
    gain = float(quiet @ probe.directions) / float(probe.directions @ probe.directions)
    assert gain == pytest.approx(1, abs=1e-3)
    assert len(quiet) == probe.canaries.dimension == 50_000
    assert len(probe.group.members) == 30 + probe.canaries.inside.sum()
    assert float(np.linalg.norm(probe.others)) > 1


@pytest.mark.slow
def test_estimates_come_near_and_those_of_another_noise_do_not(monkeypatch) -> None:
    monkeypatch.setattr(
        privacy_audits, "TARGETS", (Target(8.0, 500), Target(4.0, 500, rounds=2, rate=0.5))
    )
    (row,) = measured(PARTS, ["audit-estimates"], scale=0.1)
    assert row.holds and "within 15%" in row.found
    honest = CentralGaussian.release

    def quieter(self, group, **means):
        less = self.model_copy(update={"noise_multiplier": 0.8 * self.noise_multiplier})
        return honest(less, group, **means)

    monkeypatch.setattr(CentralGaussian, "release", quieter)
    (row,) = measured(PARTS, ["audit-estimates"], scale=0.1)
    assert not row.holds


def test_there_is_a_build_for_each_fault() -> None:
    names = " ".join(BUILDS)
    for fault in ("quarter of the noise", "no clip", "equal seeds", "shuffle", "not restored"):
        assert fault in names
    assert len(BUILDS) == 7


@pytest.mark.parametrize("name", BUILDS)
def test_a_broken_build_is_caught_and_its_twin_is_not(name) -> None:
    build = BUILDS[name]
    sound = experiment_from(with_seed(build.config, 0))
    assert build.caught(build.broken(sound, 0))
    assert not build.caught(sound)


@pytest.mark.slow
def test_a_build_that_nobody_catches_misses_the_bar(monkeypatch) -> None:
    tame = replace(BUILDS["equal seeds, DP-SGD"], broken=lambda sound, seed: sound)
    wild = replace(BUILDS["equal seeds, DP-SGD"], caught=lambda experiment: True)
    monkeypatch.setattr(privacy_broken, "builds", lambda: iter((tame, wild)))
    unseen, nervous = measured(PARTS, ["audit-broken"], scale=0.1)
    assert not unseen.holds and unseen.found.startswith("caught 0 of 1")
    assert not nervous.holds and nervous.found.endswith("sound twin passes 0 of 1")


def test_a_quarter_of_the_noise_is_a_quarter_and_its_event_the_whole() -> None:
    sound, broken = (kind(clip_norm=1.0, noise_multiplier=4.0) for kind in
                     (CentralGaussian, QuarterNoise))  # fmt: skip
    codec = sound.codec(dimension=D, summands=3)
    assert broken.event() == sound.event()
    from codex_ray.privacy.quantisation import no_words
    from codex_ray.types import GroupSum

    nothing = GroupSum((), no_words(codec.length, bits=codec.bits))
    noises = [
        kind.release(nothing, codec=codec, expected=1.0, noise=TREE.stream("x")).update
        for kind in (sound, broken)
    ]
    assert torch.allclose(noises[0], 4 * noises[1])


def test_no_clip_lets_a_long_update_through() -> None:
    sound, broken = (kind(clip_norm=1.0, noise_multiplier=1.0) for kind in
                     (CentralGaussian, NoClip))  # fmt: skip
    codec = sound.codec(dimension=D, summands=3)
    update = torch.full((D,), 10 / D**0.5)
    lengths = [codec.norm(one.encode(update, codec)) for one in (sound, broken)]
    assert lengths == [pytest.approx(1, rel=1e-3), pytest.approx(10, rel=1e-3)]


def test_forgotten_dropouts_claim_what_only_a_whole_cohort_has() -> None:
    fields = {"clip_norm": 0.5, "noise_multiplier": 1.0, "assumed_dropout": 0.25,
              "assumed_corrupt": 0.0}  # fmt: skip
    sound, broken = SkellamNoise(**fields), ForgottenDropouts(**fields)
    sizes = {"dimension": D, "summands": 20, "expected": 20.0}
    grids = [one.codec(**sizes) for one in (sound, broken)]
    assert grids[1].noise == pytest.approx(grids[0].noise * 0.75**0.5)
    claims = [
        one.event(codec=grid, expected=20.0, survivors=15).variance * grid.grid.step**2
        for one, grid in zip((sound, broken), grids, strict=True)
    ]
    assert claims[0] == pytest.approx(0.25, rel=1e-6) == claims[1]
    assert sound.honest(20) == broken.honest(20) == 15


def test_equal_seeds_know_neither_client_nor_round() -> None:
    fields = {"clip_norm": 0.5, "noise_multiplier": 1.0}
    broken = SameSeedNoise(**fields, forced=3)
    codec = broken.codec(dimension=D, summands=20)
    rotation = codec.rotation(TREE.stream("rotation"))

    def sent(mechanism, client):
        return mechanism.encode(
            torch.zeros(D), codec, rotation=rotation,
            draws=TREE.stream("draws", client), noise=TREE.stream("noise", client),
        )  # fmt: skip

    assert np.array_equal(sent(broken, 0), sent(broken, 1))
    assert not np.array_equal(sent(SkellamNoise(**fields), 0), sent(SkellamNoise(**fields), 1))
    other = SameSeedNoise(**fields, forced=4)
    assert not np.array_equal(sent(broken, 0), sent(other, 0))


def test_a_shuffle_deals_every_record_once_an_epoch() -> None:
    batches = ShuffledAsPoisson(sampling_rate=0.25, steps=6).draw(12, TREE.stream("batches"))
    assert [len(batch) for batch in batches] == [3] * 6
    assert sorted(np.concatenate(batches[:4]).tolist()) == list(range(12))
    assert [len(batch) for batch in ShuffledAsPoisson(sampling_rate=0.25, steps=2).draw(
        0, TREE.stream("batches"))] == [0, 0]  # fmt: skip


@pytest.mark.parametrize("name", BUILDS)
def test_no_configuration_can_name_a_broken_build(name) -> None:
    """What is written of one is what it claims to be: its sound twin."""
    sound = experiment_from(with_seed(BUILDS[name].config, 0))
    broken = BUILDS[name].broken(sound, 0)
    assert broken != sound
    written = broken.model_dump(warnings=False)
    written["trainer"].pop("forced", None)
    written["federation"]["mechanism"].pop("forced", None)
    assert experiment_from(written) == sound
