"""Attack 19: secure aggregation is taken for privacy, and one exact sum tells who is in it.

With as many coordinates as a model has, what the others add to a known direction is small beside an
update that points there: a likelihood ratio over a single sum finds a canary (Ngo et al. 2024). The
cryptography is in order all the while. So an epsilon is never had from it: without a mechanism
there is none to report, and with one the ratio is as good as the event allows, and no better.
"""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from secagg_network import a_context, a_network, a_session
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import codex_ray
from codex_ray.accounting import claims, costs
from codex_ray.api import plan
from codex_ray.certifying.verify import verify
from codex_ray.cli import main
from codex_ray.config import experiment_from, to_yaml
from codex_ray.errors import ConfigError
from codex_ray.privacy.curve import privacy_curve
from codex_ray.privacy.empirical_bounds import clopper_pearson_bound
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.privacy.mechanisms import NoMechanism
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise
from codex_ray.randomness import SeedTree
from codex_ray.secagg.protocols import OneShot, SecAgg
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(b"no noise".ljust(32))
MEMBERS, D, TRIALS, DELTA = tuple(range(5)), 512, 200, 1e-5
CANARY = MEMBERS[0]
NORM = 0.7
"""What the others send: anything of that length, in clip norms."""
NOISE = 2.0
KINDS = pytest.mark.parametrize("kind", [DiscreteGaussianNoise, SkellamNoise])


# A canary, found by the ratio of the likelihoods of one sum with it and without.


@cache
def direction() -> torch.Tensor:
    """The canary [d], of the clip norm."""
    drawn = torch.from_numpy(TREE.stream("canary").normal(D))
    return drawn / drawn.norm()


def part(mechanism, codec, member, *, trial: int, inside: bool = False):
    """What a member sends: any update, or the canary if it is inside, and otherwise zero."""
    where = (trial, member, int(inside))
    if member == CANARY:
        update = direction() * float(inside)
    else:
        update = NORM * torch.from_numpy(TREE.stream("update", *where).normal(D)) / math.sqrt(D)
    return mechanism.encode(
        update,
        codec,
        rotation=codec.rotation(TREE.stream("rotation", trial)),
        draws=TREE.stream("rounding", *where),
        noise=TREE.stream("noise", *where),
    )


def ratio(codec, total, *, trial: int) -> float:
    """The log-likelihood ratio of a total with and without the canary, up to a positive factor.

    The rest of the sum is Gaussian to whoever knows how updates are spread, noise or no noise.
    """
    rotation = codec.rotation(TREE.stream("rotation", trial))
    found, canary = codec.decode(total, rotation=rotation), direction()
    return float(found @ canary) - float(canary @ canary) / 2


def ratios(mechanism, codec) -> tuple[np.ndarray, np.ndarray]:
    """The ratios of many sums [TRIALS] with the canary, and of as many without."""
    seen = np.empty((2, TRIALS))
    for trial in range(TRIALS):
        others = sum(part(mechanism, codec, member, trial=trial) for member in MEMBERS[1:])
        for arm, inside in enumerate((True, False)):
            canary = part(mechanism, codec, CANARY, trial=trial, inside=inside)
            total = reduce_words(others + canary, codec.bits)
            seen[arm, trial] = ratio(codec, total, trial=trial)
    return seen[0], seen[1]


def without_noise():
    mechanism = NoMechanism(bound=1.0, encoding=Encoding(bits=32))
    return mechanism, mechanism.codec(dimension=D, summands=len(MEMBERS))


def noised(kind):
    """As many clients as there must be honest ones: six in all, of whom one tells its noise."""
    mechanism = kind(clip_norm=1.0, noise_multiplier=NOISE, assumed_dropout=0.0)
    assert mechanism.honest(6) == len(MEMBERS)
    return mechanism, mechanism.codec(dimension=D, summands=6)


def claimed(mechanism, codec):
    """What a round costs, by its event."""
    return ((mechanism.event(codec=codec, survivors=6), 1),)


@pytest.mark.parametrize("protocol", [SecAgg(adversary="malicious"), OneShot()])
def test_one_sum_of_a_sound_protocol_tells_without_noise_who_was_there(protocol):
    mechanism, codec = without_noise()
    guesses = []
    for trial in range(12):
        sent = {
            member: part(mechanism, codec, member, trial=trial, inside=trial % 2 == 0)
            for member in MEMBERS
        }
        context = a_context(codec.length, round=trial)
        session = a_session(protocol, MEMBERS, context)
        (group,) = a_network(protocol, MEMBERS, context, sent).run(session).groups
        guesses.append(ratio(codec, group.total, trial=trial) > 0)
    assert guesses == [True, False] * 6


def test_without_noise_the_attack_refutes_any_small_epsilon():
    """The contrast: the same cohorts, the same ratio."""
    mechanism, codec = without_noise()
    there, gone = ratios(mechanism, codec)
    assert np.mean(there > 0) > 0.99 and np.mean(gone > 0) < 0.01
    shown = clopper_pearson_bound(there, gone, delta=DELTA, threshold=0.0)
    assert shown > 1.5 * epsilon_of(claimed(*noised(SkellamNoise)), DELTA)


@KINDS
def test_with_it_the_attack_is_no_better_than_the_event_allows(kind):
    mechanism, codec = noised(kind)
    there, gone = ratios(mechanism, codec)
    paid = claimed(mechanism, codec)
    found = float(np.mean(there > 0) - np.mean(gone > 0))
    # No more than a test of mu-GDP gains, for the mu of the claim; and it does gain something.
    assert 0.1 < found < 2 * ndtr(privacy_curve(paid, DELTA).mu / 2) - 1 < 0.3
    for threshold in (-0.5, 0.0, 0.5, 2.5):
        shown = clopper_pearson_bound(there, gone, delta=DELTA, threshold=threshold)
        assert shown < epsilon_of(paid, DELTA)


# What a run without a mechanism says of privacy: nothing.


@pytest.fixture
def unnoised(devices):
    """Forty clients under real secure aggregation, and no noise anywhere."""
    devices["federation"] = {"sampler": {"kind": "all"}, "mechanism": {"kind": "none"}}
    return devices | {"rounds": 1, "data": {"kind": "synthetic_images", "clients": 8}}


@pytest.mark.parametrize("kind", ["secagg_plus", "one_shot"])
def test_no_protocol_earns_an_epsilon_or_a_certificate(kind, unnoised, tmp_path):
    unnoised["federation"]["protocol"] = {"kind": kind}
    result, run = codex_ray.run(unnoised, out=tmp_path / "run"), tmp_path / "run"
    assert result.privacy == [] and result.epsilon == math.inf
    (line,) = (json.loads(text) for text in (run / "rounds.jsonl").open())
    assert line["survivors"] == 8 and line["epsilon"] == {}
    scalars = EventAccumulator(str(run / "tensorboard")).Reload().Tags()["scalars"]
    assert "metrics/accuracy" in scalars and not [tag for tag in scalars if "epsilon" in tag]
    document = json.loads((run / "privacy.json").read_text())
    assert document["certificate"] is None and document["spends"] == document["ledgers"] == []
    found = verify(run)
    assert found.status == 1 and "no noise is added anywhere" in found.differences[0]


def test_nothing_is_accounted_and_no_budget_is_taken(unnoised, tmp_path, capsys):
    experiment = plan(unnoised, {})
    assert claims(experiment) == [] and list(costs(experiment)) == []
    (tmp_path / "none.yaml").write_text(to_yaml(experiment))
    assert main(["account", str(tmp_path / "none.yaml")]) == 0
    assert "epsilon" not in capsys.readouterr().out
    unnoised["budget"] = {"epsilon": 8.0}
    with pytest.raises(ConfigError, match="nothing adds noise"):
        codex_ray.run(unnoised, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_contrast_with_a_mechanism_all_of_these_speak(unnoised, tmp_path):
    noise = {"kind": "skellam", "clip_norm": 0.5, "noise_multiplier": 1.0}
    unnoised["federation"]["mechanism"] = noise
    unnoised["federation"]["protocol"] = {"kind": "secagg"}
    result = codex_ray.run(unnoised, out=tmp_path / "run")
    assert 0 < result.epsilon < math.inf and len(result.privacy) == 8
    assert verify(tmp_path / "run").differences == ()
    (line,) = (json.loads(text) for text in (tmp_path / "run" / "rounds.jsonl").open())
    assert line["epsilon"] == {"client": pytest.approx(result.epsilon)}
    scalars = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Tags()["scalars"]
    assert "privacy/epsilon_client" in scalars
    (cost,) = costs(experiment_from(unnoised))
    assert cost.epsilon >= result.epsilon  # It has the fewest survivors that there may be.
    assert "Skellam" in claims(experiment_from(unnoised))[0]
