"""Noise that clients bring: as much as is charged, whoever drops; no sum could lose any."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from codex_ray.assembly import assemble, charges
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.privacy.noise_inside import DiscreteGaussianNoise, SkellamNoise, deviation_of
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(b"noise inside a sum of integers !")
KINDS = pytest.mark.parametrize("kind", [DiscreteGaussianNoise, SkellamNoise])
N, D = 30, 4096


def built(kind, **fields):
    mechanism = kind(**{"clip_norm": 0.5, "noise_multiplier": 1.0} | fields)
    return mechanism, mechanism.codec(dimension=D, summands=N)


def summed(mechanism, codec, updates, *, seed=0):
    """The release over everyone in `updates` (client -> update)."""
    rotation = codec.rotation(TREE.stream("rotation", seed))
    total = no_words(codec.length, bits=codec.bits)
    for client, update in updates.items():
        total += mechanism.encode(
            update,
            codec,
            rotation=rotation,
            draws=TREE.stream("rounding", seed, client),
            noise=TREE.stream("noise", seed, client),
        )
    group = GroupSum(tuple(updates), reduce_words(total, codec.bits))
    return mechanism.release(
        group, codec=codec, expected=1.0, noise=TREE.stream("unused"), rotation=rotation
    ).update


@KINDS
@pytest.mark.parametrize("bits", [16, 18, 20])
def test_the_fewest_honest_survivors_have_the_noise_that_is_asked_for(kind, bits) -> None:
    mechanism, codec = built(kind, encoding=Encoding(bits=bits, rounding="stochastic", rotate=True))
    fewest, conspirators = mechanism.fewest(N), mechanism.conspirators(N)
    assert (fewest, conspirators, mechanism.honest(N)) == (27, 2, 25)
    zero = dict.fromkeys(range(fewest - conspirators), torch.zeros(D))
    assert float(summed(mechanism, codec, zero).std()) == pytest.approx(0.5, rel=0.05)
    everyone = dict.fromkeys(range(N), torch.zeros(D))
    more = 0.5 * math.sqrt(N / 25)
    assert float(summed(mechanism, codec, everyone).std()) == pytest.approx(more, rel=0.05)


@KINDS
def test_the_event_is_that_of_the_noise_that_is_in_the_sum(kind) -> None:
    """Measured on the integers: the variance that the event names, for as many as survived."""
    mechanism, codec = built(kind, assumed_corrupt=0.0)
    for survivors in (27, N):
        event = mechanism.event(codec=codec, survivors=survivors)
        step = codec.grid.step
        zero = dict.fromkeys(range(survivors), torch.zeros(D))
        seen = float(summed(mechanism, codec, zero).var()) / step**2
        variance = getattr(event, "variance", None) or event.summands * event.local_sigma**2
        assert seen == pytest.approx(variance, rel=0.08)
        assert event.l2 == pytest.approx(0.5 / step)


@KINDS
@pytest.mark.parametrize("norm", [0.0, 0.3, 0.5, 7.0])
def test_no_summand_without_its_noise_is_longer_than_the_event_says(kind, norm) -> None:
    mechanism, codec = built(kind)
    update = torch.randn(D, generator=torch.Generator().manual_seed(1))
    update = update / update.norm() * norm
    rotation, draws = codec.rotation(TREE.stream("r")), ("rounding", 3)
    noised = mechanism.encode(
        update, codec, rotation=rotation, draws=TREE.stream(*draws), noise=TREE.stream("n")
    )
    again = mechanism.encode(
        torch.zeros(D), codec, rotation=rotation, draws=TREE.stream(*draws), noise=TREE.stream("n")
    )
    bare = codec.grid.integers(noised - again)
    assert float(bare.norm()) <= mechanism.event(codec=codec).l2
    assert float(bare.abs().sum()) <= mechanism.event(codec=codec).l1


@KINDS
def test_the_sum_is_right_but_for_its_noise(kind) -> None:
    mechanism, codec = built(kind, noise_multiplier=0.01)
    drawn = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    updates = drawn / drawn.norm(dim=1, keepdim=True) * 0.4
    released = summed(mechanism, codec, dict(enumerate(updates)))
    error = float((released - updates.double().sum(0)).norm())
    # Rounding adds at most 1/4 step^2 for each client and coordinate.
    rounding = codec.grid.step * math.sqrt(N / 4)
    assert error <= 1.1 * math.sqrt(D) * math.hypot(0.005 * math.sqrt(N / 25), rounding)


@KINDS
def test_two_clients_and_two_rounds_share_no_noise(kind) -> None:
    mechanism, codec = built(kind)
    zero = torch.zeros(D)
    one, other, later = (
        summed(mechanism, codec, {client: zero}, seed=seed).numpy()
        for client, seed in ((1, 0), (2, 0), (1, 1))
    )
    for second in (other, later):
        assert abs(np.corrcoef(one, second)[0, 1]) < 4.5 / math.sqrt(D)


@KINDS
def test_epsilon_falls_with_survivors_and_never_below_what_they_bring(kind) -> None:
    mechanism, codec = built(kind)

    def cost(survivors):
        return epsilon_of(((mechanism.event(codec=codec, survivors=survivors), 1),), 1e-5)

    assert cost(30) < cost(28) < cost(27) == cost(None)
    # No sum is opened with fewer, so none is charged as if there were.
    assert cost(20) == cost(None)


def test_survivors_are_counted_down_to_a_hundredth_of_the_cohort() -> None:
    mechanism = SkellamNoise(clip_norm=1.0, noise_multiplier=1.0, assumed_dropout=0.3)
    codec = mechanism.codec(dimension=16, summands=1000)
    events = {mechanism.event(codec=codec, survivors=n) for n in range(700, 1001)}
    assert len(events) == 31
    exact = mechanism.event(codec=codec, survivors=999)
    assert exact == mechanism.event(codec=codec, survivors=990)
    assert exact.variance == pytest.approx(940 * deviation_of(codec) ** 2)


@KINDS
def test_it_costs_what_central_noise_costs_within_two_per_cent(kind) -> None:
    """At 16 bits, with the same accountant (Renyi bounds)."""
    from dp_accounting import GaussianDpEvent

    mechanism = kind(clip_norm=1.0, noise_multiplier=1.0)
    codec = mechanism.codec(dimension=1 << 17, summands=1000)
    inside = epsilon_of(((mechanism.event(codec=codec), 1),), 1e-5)
    central = epsilon_of(((GaussianDpEvent(1.0), 1),), 1e-5, accountant="rdp")
    assert central <= inside <= 1.02 * central


@KINDS
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"protocol": {"kind": "clear"}}, "protocol.kind is clear.*secagg_plus"),
        ({"protocol": {"kind": "secagg_plus", "assumed_corrupt": 0.2}}, "assumed_corrupt is 0.05"),
        ({"dropouts": {"after_shares": 0.3}}, "lose 0.3 of a cohort.*raise"),
        ({"sampler": {"kind": "poisson", "rate": 0.5}}, "0.01 of delta.*assumed_dropout"),
    ],
)
def test_what_would_leave_too_little_noise_is_refused(kind, change, why, inside) -> None:
    inside["federation"]["mechanism"]["kind"] = kind.model_fields["kind"].default
    inside["federation"] |= change
    with pytest.raises(ConfigError, match=why):
        assemble(experiment_from(inside))


@pytest.mark.parametrize("kind", ["secagg", "one_shot", "ideal"])
def test_a_large_cohort_needs_a_protocol_that_counts_survivors(kind, inside) -> None:
    inside["data"]["clients"] = 100
    with pytest.raises(ConfigError, match="which a sparse graph holds no lying server to"):
        assemble(experiment_from(inside))
    inside["federation"]["protocol"] = {"kind": kind}
    assemble(experiment_from(inside))


def test_nobodys_noise_is_refused() -> None:
    mechanism = SkellamNoise(
        clip_norm=1.0, noise_multiplier=1.0, assumed_dropout=0.7, assumed_corrupt=0.4
    )
    with pytest.raises(ConfigError, match="nobody's noise to count on"):
        mechanism.codec(dimension=4, summands=10)


@pytest.mark.parametrize(
    "encoding", [Encoding(bits=16), Encoding(bits=16, rounding="stochastic"), Encoding(rotate=True)]
)
def test_a_grid_without_rotation_and_random_rounding_is_refused(encoding) -> None:
    with pytest.raises(ConfigError, match="noise inside the sum needs rotate"):
        SkellamNoise(clip_norm=1.0, noise_multiplier=1.0, encoding=encoding).codec(
            dimension=4, summands=10
        )


def test_a_grid_too_fine_for_the_tables_is_refused() -> None:
    fine = Encoding(bits=32, rounding="stochastic", rotate=True)
    with pytest.raises(ConfigError, match=r"encoding\.bits is 32.*lower it"):
        SkellamNoise(clip_norm=1.0, noise_multiplier=1.0, encoding=fine).codec(
            dimension=4, summands=10
        )


def test_it_asks_for_a_stream_of_its_own() -> None:
    mechanism, codec = built(SkellamNoise)
    with pytest.raises(ValueError, match="its own secret stream"):
        mechanism.encode(torch.zeros(D), codec, rotation=codec.rotation(TREE.stream("r")))


# In an experiment.


def test_against_the_server_no_sampling_counts_and_against_outsiders_it_does(inside) -> None:
    inside["data"]["clients"] = 400
    inside["federation"]["sampler"] = {"kind": "poisson", "rate": 0.5}
    inside["federation"]["mechanism"]["assumed_dropout"] = 0.5
    inside["federation"]["protocol"] = {"kind": "one_shot"}
    experiment = experiment_from(inside)
    server, outsiders = charges(experiment)
    assert (server.claim.name, outsiders.claim.name) == ("U4", "U1")
    assert outsiders.event(None).event == server.event(None)
    assert outsiders.event(200).sample_size == 200  # of 400, as the noise tells how many
    assert outsiders.hidden and not server.hidden


def test_with_everyone_in_every_round_there_is_one_claim(inside) -> None:
    (only,) = charges(experiment_from(inside))
    assert only.claim.name == "U4" and only.claim.neighbours == "zero_out"


@KINDS
def test_clients_that_add_up_many_records_bring_their_own_part_and_no_more(kind) -> None:
    """The noise is shared among the clients, however many summands each has."""
    mechanism = kind(clip_norm=0.5, noise_multiplier=3.0)
    codec = mechanism.codec(dimension=D, summands=900, expected=10.0, bringers=10)
    honest, step = mechanism.honest(10.0), codec.grid.step
    assert deviation_of(codec) * step == pytest.approx(3.0 * 0.5 / math.sqrt(honest))
    event = mechanism.event(codec=codec, expected=10.0)
    variance = getattr(event, "variance", None) or event.summands * event.local_sigma**2
    assert math.sqrt(variance) / event.l2 == pytest.approx(3.0)


def test_a_shared_step_is_one_claim_about_records(shared) -> None:
    (only,) = charges(experiment_from(shared))
    assert (only.claim.name, only.claim.unit) == ("L2", "record")
    assert only.event(None).sampling_probability == 0.5
    assert not only.hidden


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mechanism": {"kind": "none"}}, "clients send sums without noise"),
        ({"sampler": {"kind": "poisson", "rate": 0.9}}, "set kind to all"),
        (
            {"mechanism": {"kind": "skellam", "clip_norm": 1.0, "noise_multiplier": 1.0}},
            "clipped to trainer.clip_norm, 0.5: leave it out",
        ),
    ],
)
def test_a_shared_step_without_what_makes_it_private_is_refused(change, why, shared) -> None:
    shared["federation"] |= change
    with pytest.raises(ConfigError, match=why):
        assemble(experiment_from(shared))
