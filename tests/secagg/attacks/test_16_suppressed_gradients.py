"""Attack 16: a model under which nobody's update moves but the victim's, which is then the sum.

A layer that is dead for all records but some of the victim's does it (gradient suppression,
Pasquini et al. 2022), with one model for everybody: attack 15 needs two. No cryptography helps.
What does is that everyone brings their part of the noise, whatever they have to say: the update
comes out under all of the noise that its claim speaks of.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import chi2

from codex_ray.api import plan
from codex_ray.assembly import Given, assemble
from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.trainers import LocalTraining
from codex_ray.privacy.clip_and_round import clipped
from codex_ray.privacy.curve import privacy_curve
from codex_ray.privacy.empirical_bounds import clopper_pearson_bound
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, NoiseInside, SkellamNoise
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import reduce as reduce_words

CLIENTS, VICTIM, SPY = 12, 5, 11
FEATURES, WIDTH = 32, 256
MARK = 0
"""A feature that is zero for everybody but the victim."""
CLIP, NOISE = 0.5, 2.0
RARE = 1e-6


# Whole rounds of a crafted model.


def crafted() -> torch.nn.Module:
    """A network whose only hidden layer is dead for every record without the mark."""
    hidden = torch.nn.Linear(FEATURES, WIDTH)
    with torch.no_grad():
        hidden.weight.zero_()
        hidden.weight[:, MARK] = torch.linspace(1.0, 2.0, WIDTH)
        hidden.bias.fill_(-1.0)
    return torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1, bias=False))


def marked(*, victim: bool) -> Records:
    """Forty records, of which the victim's bear the mark."""
    drawn = np.random.default_rng(victim).normal(size=(40, FEATURES)).astype(np.float32)
    drawn[:, MARK] = 2.0 if victim else 0.0
    return Records(drawn, np.arange(40) % 5 // 4)


@pytest.fixture
def suppressed(devices):
    """The crafted model in a federation of twelve, by its mechanism."""
    held = [marked(victim=one == VICTIM) for one in range(CLIENTS)]
    given = Given(crafted(), InMemory(held, marked(victim=False)))

    def build(mechanism):
        devices["federation"] = {
            "sampler": {"kind": "all"},
            "protocol": {"kind": "secagg"},
            "mechanism": mechanism,
        }
        devices["trainer"]["learning_rate"] = 2.0
        return assemble(plan(devices, {}, given=given), given)

    return build


def with_noise(kind):
    return {"kind": kind, "clip_norm": CLIP, "noise_multiplier": NOISE}


def updates_of(built) -> torch.Tensor:
    """What each client has trained [n, d]."""
    secret = built.randomness.secret
    training = LocalTraining(built.experiment.trainer, built.model, built.dataset, secret)
    return training.train(built.initial, range(CLIENTS), 0)


def released(built) -> torch.Tensor:
    """The sum [d] that a secure round over all clients gives the server."""
    one, state = built.round(LocalTransport(built.host())), built.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=0)
    assert trace.aborted is None and trace.members == tuple(range(CLIENTS))
    return (after.params.double() - state.params.double()) * CLIENTS


def known_noise(built) -> torch.Tensor:
    """The part [d] of the noise that the spy has brought, and told."""
    codec, secret = built.codec, built.randomness.secret
    rotation = codec.rotation(built.randomness.public.stream("rotation", 0))
    words = built.experiment.federation.mechanism.encode(
        torch.zeros(len(built.initial)),
        codec,
        rotation=rotation,
        draws=secret.stream("rounding", 0, SPY),
        noise=secret.stream("noise share", 0, SPY),
    )
    return codec.decode(words, rotation=rotation)


def share_of_target(noise: torch.Tensor) -> float:
    """The variance of the noise [d] over that which the claim speaks of."""
    return float(noise.square().mean()) / (CLIP * NOISE) ** 2


def floor(count: int) -> float:
    """The least share that whole noise of so many coordinates has, but for `RARE`."""
    return float(chi2.ppf(RARE, count)) / count


def test_the_model_is_dead_for_everybody_but_the_victim(suppressed):
    updates = updates_of(suppressed({"kind": "none"}))
    assert float(updates[VICTIM].norm()) > CLIP
    others = [one for one in range(CLIENTS) if one != VICTIM]
    assert not updates[others].any()


def test_without_noise_the_secure_sum_is_the_victims_update(suppressed):
    """The attack succeeds: the sum over twelve is an update, to the step of the grid."""
    built = suppressed({"kind": "none"})
    update = updates_of(built)[VICTIM].double()
    assert float((released(built) - update).norm()) < 1e-4 * float(update.norm())


@pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])
def test_with_it_the_victim_is_under_the_whole_noise(kind, suppressed):
    built = suppressed(with_noise(kind))
    update = clipped(updates_of(built)[VICTIM], built.codec.allowed_norm)
    noise = released(built) - known_noise(built) - update
    found, honest = share_of_target(noise), built.experiment.federation.mechanism.honest(CLIENTS)
    assert found > floor(len(noise))
    # Twelve are there, where nine honest ones would have done; and of the update nothing is left.
    assert found == pytest.approx((CLIENTS - 1) / honest, rel=0.08)


def test_mutation_whoever_has_nothing_to_say_brings_no_noise(suppressed, monkeypatch):
    """A saving that looks harmless: only the victim's own part is left on its update."""
    genuine = NoiseInside._encode

    def saving(self, updates, codec, means):
        words = genuine(self, updates, codec, means)
        words[~updates.any(1).numpy()] = no_words(codec.length, bits=codec.bits)
        return words

    monkeypatch.setattr(NoiseInside, "_encode", saving)
    built = suppressed(with_noise("skellam"))
    update = clipped(updates_of(built)[VICTIM], built.codec.allowed_norm)
    noise = released(built) - known_noise(built) - update
    found, honest = share_of_target(noise), built.experiment.federation.mechanism.honest(CLIENTS)
    assert found < floor(len(noise)) and found == pytest.approx(1 / honest, rel=0.1)


def test_mutation_noise_that_clients_leave_to_the_server(suppressed, monkeypatch):
    """A server that lies adds none, and reads the clipped update as if there were no mechanism."""
    monkeypatch.setattr(NoiseInside, "noised", lambda self, words, codec, *, noise: words)
    built = suppressed(with_noise("skellam"))
    update = clipped(updates_of(built)[VICTIM], built.codec.allowed_norm)
    noise = released(built) - update
    assert share_of_target(noise) < 1e-3
    assert float(torch.cosine_similarity(released(built), update, dim=0)) > 0.99


# How well the sum tells whether the victim said anything, against what its claim allows.

TREE = SeedTree(b"suppressed gradients".ljust(32))
COHORT, D, TRIALS, DELTA = 10, 16, 400, 1e-5
KINDS = pytest.mark.parametrize("kind", [DiscreteGaussianNoise, SkellamNoise])


def sized(kind):
    """The mechanism and codec of ten clients: nine must stay, one of them may conspire."""
    mechanism = kind(clip_norm=1.0, noise_multiplier=NOISE)
    assert (mechanism.fewest(COHORT), mechanism.honest(COHORT)) == (9, 8)
    return mechanism, mechanism.codec(dimension=D, summands=COHORT)


def scores(kind, *, dead_bring_noise=True) -> tuple[np.ndarray, np.ndarray]:
    """The sum along the victim's direction, in many rounds [TRIALS] with its update and without.

    The fewest clients are there, all dead but the victim, and the spy's noise is taken off. What
    the others send is the same with and without.
    """
    mechanism, codec = sized(kind)
    zero = torch.zeros(D, dtype=torch.float64)
    update = torch.full_like(zero, 1 / math.sqrt(D))
    seen = np.empty((2, TRIALS))
    for trial in range(TRIALS):
        rotation = codec.rotation(TREE.stream("rotation", trial))

        def sent(vector, *who, rotation=rotation, trial=trial):
            if not dead_bring_noise and not vector.any():
                return no_words(codec.length, bits=codec.bits)
            return mechanism.encode(
                vector,
                codec,
                rotation=rotation,
                draws=TREE.stream("rounding", trial, *who),
                noise=TREE.stream("noise", trial, *who),
            )

        dead = sum(sent(zero, client) for client in range(7))
        for arm, said in enumerate((update, zero)):
            total = reduce_words(dead + sent(said, "victim", arm), codec.bits)
            seen[arm, trial] = float(codec.decode(total, rotation=rotation) @ update)
    return seen[0], seen[1]


def advantage(there: np.ndarray, gone: np.ndarray) -> float:
    """How much oftener the better half of the line is right than wrong."""
    return float(np.mean(there > 0.5) - np.mean(gone > 0.5))


@KINDS
def test_a_test_for_the_victim_gains_no_more_than_its_epsilon_allows(kind):
    mechanism, codec = sized(kind)
    paid = ((mechanism.event(codec=codec, survivors=9), 1),)
    there, gone = scores(kind)
    # The ratio of signal to noise is that of the claim: clip_norm to its multiple.
    ratio = float(there.mean() - gone.mean()) / float(gone.std())
    assert ratio == pytest.approx(1 / NOISE, abs=4 * math.sqrt(2 / TRIALS))
    # mu-GDP for the mu of the claim: no test's true positives outnumber its false ones by more.
    mu = privacy_curve(paid, DELTA).mu
    assert 0.1 < advantage(there, gone) < 2 * ndtr(mu / 2) - 1 < 0.3
    for threshold in (0.0, 0.5, 1.0, 3.0):
        shown = clopper_pearson_bound(there, gone, delta=DELTA, threshold=threshold)
        assert shown < epsilon_of(paid, DELTA)


def test_mutation_where_the_dead_are_silent_the_test_is_never_wrong():
    """That there is any noise shows that somebody spoke."""
    mechanism, codec = sized(SkellamNoise)
    paid = ((mechanism.event(codec=codec, survivors=9), 1),)
    there, gone = scores(SkellamNoise, dead_bring_noise=False)
    assert there.all() and not gone.any()
    shown = clopper_pearson_bound(abs(there), abs(gone), delta=DELTA, threshold=1e-9)
    assert shown > 2 * epsilon_of(paid, DELTA)
