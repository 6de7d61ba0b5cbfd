"""Attack 13: the noise of whoever drops is not in the sum, nor is that of whoever is said to have.

If each client brings its part of what the whole cohort is to have together, a dropout takes some
away, and a server that says of honest clients that they dropped takes as much as it likes. So a
part is sized for the fewest honest survivors, and with fewer no sum is opened: neither by an honest
server, nor by the clients of one that lies.
"""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.federation.faults import Dropouts, FaultyTransport
from codex_ray.federation.federation import Federation
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.trainers import LocalTraining
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import Stage
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(b"lost noise".ljust(32))
KINDS = [DiscreteGaussianNoise, SkellamNoise]
CLIENTS, D, ROUNDS = 20, 1 << 14, 4
EVERYONE = range(CLIENTS)
SPY = CLIENTS - 1
"""It is in every sum, and tells the server its noise."""
CLIP, NOISE = 0.5, 1.5
TARGET = (CLIP * NOISE) ** 2
"""The variance that the noise of the fewest honest survivors is to have."""
MOST_LOST = 4
"""A fifth of the cohort may be missing: 16 must be in a sum, 15 of them no spies."""
RARE = 1e-6


def interval(count: int) -> tuple[float, float]:
    """Where the mean square of so many standard normals lies, but for twice `RARE`."""
    return chi2.ppf(RARE, count) / count, chi2.isf(RARE, count) / count


def enough(noise: np.ndarray, variance: float) -> bool:
    """Whether the noise may have that variance, or more."""
    return float(np.mean(noise**2)) / variance >= interval(noise.size)[0]


def just(noise: np.ndarray, variance: float) -> bool:
    """Whether the noise may have just that variance."""
    low, high = interval(noise.size)
    return low <= float(np.mean(noise**2)) / variance <= high


def variance_of(event, codec) -> float:
    """The variance of the noise that an event speaks of, in the units of an update."""
    steps = getattr(event, "variance", None) or event.summands * event.local_sigma**2
    return steps * codec.grid.step**2


# What is in a sum, and what the event says of it.


@cache
def parts(kind, **sizing):
    """The mechanism, its codec, and for each round every client's summand of a zero update."""
    mechanism = kind(clip_norm=CLIP, noise_multiplier=NOISE, **dict(sizing))
    codec = mechanism.codec(dimension=D, summands=CLIENTS)
    sent = [
        [
            mechanism.encode(
                torch.zeros(D),
                codec,
                rotation=codec.rotation(TREE.stream("rotation", number)),
                draws=TREE.stream("rounding", number, client),
                noise=TREE.stream("noise share", number, client),
            )
            for client in EVERYONE
        ]
        for number in range(ROUNDS)
    ]
    return mechanism, codec, sent


def decoded(codec, sent, survivors) -> np.ndarray:
    """The decoded sums over the survivors [rounds * d]; as nobody moves, all of it is noise."""
    found = []
    for number, words in enumerate(sent):
        total = no_words(codec.length, bits=codec.bits)
        for client in survivors:
            total = reduce_words(total + words[client], codec.bits)
        rotation = codec.rotation(TREE.stream("rotation", number))
        found.append(codec.decode(total, rotation=rotation).numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", range(MOST_LOST + 1))
def test_whoever_drops_there_is_enough_noise_and_just_what_the_event_says(kind, lost):
    """But for that of the spy, which the event does not count either."""
    mechanism, codec, sent = parts(kind, assumed_dropout=0.2)
    assert mechanism.fewest(CLIENTS) == CLIENTS - MOST_LOST
    survivors = EVERYONE[lost:]
    noise = decoded(codec, sent, survivors) - decoded(codec, sent, [SPY])
    assert enough(noise, TARGET) and just(noise, TARGET * (len(survivors) - 1) / 15)
    event = mechanism.event(codec=codec, survivors=len(survivors))
    assert just(noise, variance_of(event, codec))


@pytest.mark.parametrize("kind", KINDS)
def test_mutation_parts_sized_for_the_whole_cohort_lose_what_drops(kind):
    """Nothing is to be missing and nobody to conspire: with one dropout too little is left."""
    mechanism, codec, sent = parts(kind, assumed_dropout=0.0, assumed_corrupt=0.0)
    assert just(decoded(codec, sent, EVERYONE), TARGET)
    for lost in range(1, MOST_LOST + 1):
        noise = decoded(codec, sent, EVERYONE[lost:])
        assert not enough(noise, TARGET)
        assert just(noise, TARGET * (CLIENTS - lost) / CLIENTS)
        # And the event would go on speaking of the noise of everybody.
        event = mechanism.event(codec=codec, survivors=CLIENTS - lost)
        assert not enough(noise, variance_of(event, codec))


# Whole rounds, in which too few survive.


class Silent(Dropouts):
    """The first so many clients fall silent at that trip; nobody can tell whether they did."""

    lost: int
    at: Stage

    def silent_from(self, client, round, public):
        return self.at if client < self.lost else None


PROTOCOLS = pytest.mark.parametrize(
    "protocol",
    [{"kind": "secagg"}, {"kind": "secagg", "adversary": "malicious"}, {"kind": "one_shot"}],
    ids=["secagg", "malicious", "one_shot"],
)


@pytest.fixture
def standing(inside, monkeypatch):
    """Twenty clients whose updates are zero: what a round releases is noise."""
    monkeypatch.setattr(
        LocalTraining,
        "train",
        lambda _, params, clients, round: torch.zeros(len(clients), len(params)),
    )
    inside["data"]["clients"] = CLIENTS
    inside["model"] = {"kind": "mlp", "hidden": [120], "outputs": 10}  # many places for noise
    inside["federation"]["mechanism"] = {
        "kind": "skellam",
        "clip_norm": CLIP,
        "noise_multiplier": NOISE,
        "assumed_dropout": 0.2,
    }
    return inside


def a_round(config, protocol, *, lost, at=Stage.MASKED_INPUT, lies=None):
    """What was assembled, its first state, and the state and trace after a round with dropouts.

    `lies` is called after the clients have their protocol and before the server has its own.
    """
    config["federation"]["protocol"] = protocol
    built = assemble(experiment_from(config))
    inner = LocalTransport(built.host())
    if lies is not None:
        lies()
    transport = FaultyTransport(inner, Silent(lost=lost, at=at), built.randomness.public)
    one, state = built.round(transport), built.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=0)
    return built, state, after, trace


def unknown_noise(built, state, after) -> np.ndarray:
    """What the round released, as a sum, less the noise that the spy has put into it."""
    codec, mechanism = built.codec, built.experiment.federation.mechanism
    rotation = codec.rotation(built.randomness.public.stream("rotation", 0))
    own = mechanism.encode(
        torch.zeros(len(built.initial)),
        codec,
        rotation=rotation,
        draws=built.randomness.secret.stream("rounding", 0, SPY),
        noise=built.randomness.secret.stream("noise share", 0, SPY),
    )
    released = (after.params.double() - state.params.double()) * CLIENTS
    return (released - codec.decode(own, rotation=rotation)).numpy()


@PROTOCOLS
@pytest.mark.parametrize("lost", [0, MOST_LOST])
def test_a_round_releases_the_noise_that_its_survivors_pay_for(protocol, lost, standing):
    built, state, after, trace = a_round(standing, protocol, lost=lost)
    assert trace.aborted is None and trace.members == tuple(EVERYONE[lost:])
    ((event, times),) = after.ledgers[0].paid[SPY].items()
    assert times == 1 and set(after.ledgers[0].paid) == set(trace.members)
    noise = unknown_noise(built, state, after)
    assert enough(noise, TARGET) and just(noise, variance_of(event, built.codec))


@PROTOCOLS
def test_with_one_survivor_too_few_the_server_opens_no_sum(protocol, standing):
    _, state, after, trace = a_round(standing, protocol, lost=MOST_LOST + 1)
    assert "15" in trace.aborted and "16 are needed" in trace.aborted
    assert torch.equal(after.params, state.params)
    # How far the session went is not asked: everybody has paid for the fewest that there may be.
    assert set(after.ledgers[0].paid) == set(EVERYONE)


def forgets_the_minimum(monkeypatch):
    """A party whose protocol knows nothing of the noise: over half of the cohort is a sum."""
    monkeypatch.setattr(Federation, "protocol_for", lambda self, population: self.protocol)


@PROTOCOLS
def test_clients_open_no_such_sum_for_a_server_that_would(protocol, standing, monkeypatch, caplog):
    """It says that six have dropped, who may be there: the rest refuse, and nothing is shown."""
    with caplog.at_level(logging.WARNING):
        _, state, after, trace = a_round(
            standing, protocol, lost=6, lies=lambda: forgets_the_minimum(monkeypatch)
        )
    assert trace.aborted is not None and torch.equal(after.params, state.params)
    refusals = [line for line in caplog.messages if "14 survivors" in line]
    assert len(refusals) == 14 and all("16 are needed" in line for line in refusals)


@PROTOCOLS
def test_mutation_clients_that_do_not_count_noise_open_it(protocol, standing, monkeypatch):
    """The same six are left out of a sum that lacks their noise, and nobody is told."""
    forgets_the_minimum(monkeypatch)
    built, state, after, trace = a_round(standing, protocol, lost=6)
    assert trace.aborted is None and len(trace.members) == 14
    noise = unknown_noise(built, state, after)
    assert not enough(noise, TARGET) and just(noise, TARGET * 13 / 15)
    ((event, _),) = after.ledgers[0].paid[SPY].items()
    assert not enough(noise, variance_of(event, built.codec))
