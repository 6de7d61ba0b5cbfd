"""The ledger's epsilon is dp-accounting's, called directly; its budget is never overspent."""

from __future__ import annotations

import json
import math
import time

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant as OpacusPrv
from opacus.accountants import RDPAccountant as OpacusRdp

from codex_ray.errors import PrivacyError
from codex_ray.learning.batches import PoissonBatches
from codex_ray.privacy.accountants import _account, account
from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum
from codex_ray.privacy.events import event_from_json, event_to_json, flatten, on_grid
from codex_ray.privacy.ledger import EVERYONE, Ledger, accounted, epsilon_bound, epsilon_of
from codex_ray.privacy.losses import sampled_gaussian
from codex_ray.privacy.renyi import renyi_curve

ADD_REMOVE = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
DELTA = 1e-5


def step(rate: float = 0.2, noise: float = 1.5) -> dp.DpEvent:
    return dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "rounds"), [(0.2, 1.5, 1, 30), (0.5, 5, 2, 24), (0.01, 1, 10, 100)]
)
def test_epsilon_is_that_of_dp_accounting(rate, noise, steps, rounds) -> None:
    ledger = Ledger("record", DELTA)
    for _ in range(rounds):
        ledger.charge(PoissonBatches(sampling_rate=rate, steps=steps).event(noise), [4])
    direct = PLDAccountant(ADD_REMOVE, 1e-3).compose(step(rate, noise), steps * rounds)
    (spend,) = ledger.spends([4], assumptions=())
    assert spend.epsilon == pytest.approx(direct.get_epsilon(DELTA), abs=1e-6)
    assert (spend.unit, spend.client, spend.releases) == ("record", 4, steps * rounds)


def gaussian(noise: float) -> dp.DpEvent:
    return dp.GaussianDpEvent(noise)


@pytest.mark.parametrize(
    ("event", "count", "asked", "epsilon", "within"),
    [
        (step(0.01, 1.0), 1000, {}, 1.828, 0.002),
        (step(0.01, 1.0), 1000, {"accountant": "rdp"}, 2.1014, 0.001),
        (step(0.01, 1.0), 1000, {"relation": "replace_one"}, 2.843, 0.003),
        (gaussian(1.0), 10, {}, 17.86, 0.02),
        (step(0.2, 1.0), 5, {}, 3.880, 0.002),
        (step(0.2, 1.0), 5, {"accountant": "rdp"}, 4.54, 0.005),
        (step(0.2, 1.0), 500, {}, 38.17, 0.01),
        (step(0.01, 0.3), 1000, {}, 69.8, 0.05),
        (step(0.0819, 10.0), 875, {}, 0.904, 0.001),
        (step(0.0819, 10.0), 875, {"accountant": "rdp"}, 0.988, 0.001),
    ],
)
def test_published_figures(event, count, asked, epsilon, within) -> None:
    assert epsilon_of(((event, count),), DELTA, **asked) == pytest.approx(epsilon, abs=within)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.2, 1.5, 50)])
def test_opacus_rdp_agrees_for_the_same_events(rate, noise, steps) -> None:
    opacus = OpacusRdp()
    opacus.history = [(noise, rate, steps)]
    theirs = opacus.get_epsilon(DELTA)
    assert epsilon_bound(((step(rate, noise), steps),), DELTA) == pytest.approx(theirs, rel=1e-4)


def test_opacus_prv_agrees_as_a_second_opinion() -> None:
    opacus = OpacusPrv()
    opacus.history = [(1.0, 0.01, 1000)]
    theirs = opacus.get_epsilon(DELTA)
    assert 1.82 <= theirs <= 1.85
    assert epsilon_of(((step(0.01, 1.0), 1000),), DELTA) == pytest.approx(theirs, abs=0.02)


def test_the_bound_is_never_below_the_report() -> None:
    for rate in (0.01, 0.1, 0.5, 1.0):
        for noise in (0.7, 2.0, 8.0):
            entries = ((step(rate, noise), 40),)
            assert epsilon_bound(entries, DELTA) >= epsilon_of(entries, DELTA) * (1 - 1e-3)


def test_only_those_who_released_pay() -> None:
    ledger = Ledger("record", DELTA)
    ledger.charge(step(), [0, 1])
    ledger.charge(step(), [1])
    spends = {spend.client: spend for spend in ledger.spends([2, 0, 1], assumptions=())}
    assert spends[2].epsilon == 0 and spends[2].releases == 0
    assert 0 < spends[0].epsilon < spends[1].epsilon


def test_affords_is_exact_at_the_edge() -> None:
    """RDP says no here, PLD says yes: the budget is one of the reported epsilon."""
    ledger = Ledger("client", DELTA)
    for _ in range(9):
        ledger.charge(step(), [EVERYONE])
    after = ledger.entries(EVERYONE, extra=step())
    edge = epsilon_of(after, DELTA)
    assert epsilon_bound(after, DELTA) > edge
    assert ledger.affords(step(), [EVERYONE], edge)
    assert not ledger.affords(step(), [EVERYONE], edge - 1e-9)


def test_one_poor_holder_is_enough_to_refuse() -> None:
    ledger = Ledger("record", DELTA)
    ledger.charge(dp.SelfComposedDpEvent(step(), 50), [3])
    budget = epsilon_of(((step(), 50),), DELTA)
    assert ledger.affords(step(), [0, 1], budget)
    assert not ledger.affords(step(), [0, 1, 3], budget)


def test_a_ledger_survives_being_written() -> None:
    ledger = Ledger("record", DELTA, relation="replace_one", accountant="rdp")
    ledger.charge(step(), [0, 5])
    ledger.charge(dp.GaussianDpEvent(2.0), [5])
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
    assert ledger.worst().relation == "replace_one" and ledger.worst().accountant == "rdp"


def test_a_ledger_from_before_relations_were_written_is_read() -> None:
    data = Ledger("record", DELTA).to_json()
    del data["relation"], data["accountant"]
    assert Ledger.from_json(data) == Ledger("record", DELTA)


def test_the_spend_says_how_it_was_found() -> None:
    exact, bounds = Ledger("client", DELTA), Ledger("client", DELTA, relation="replace_one")
    exact.charge(step(0.01, 1.0), [EVERYONE])
    bounds.charge(dp.SampledWithoutReplacementDpEvent(1000, 10, gaussian(2.0)), [EVERYONE])
    (first,), (second,) = (x.spends([EVERYONE], assumptions=()) for x in (exact, bounds))
    assert "PLD" in first.accountant and "0.001" in first.accountant
    assert first.neighbouring_relation == "add_or_remove_one"
    assert "RDP" in second.accountant and "PLD" not in second.accountant
    assert second.neighbouring_relation == "replace_one"


def test_one_event_without_a_loss_distribution_makes_the_whole_ledger_one_of_bounds() -> None:
    skellam = SkellamSum(variance=1e6, l2=500.0, l1=500.0**2)
    entries = ((step(0.01, 1.0), 100), (skellam, 1))
    found = account(entries, DELTA)
    assert found.accountant == "rdp" and found.discretisation is None
    assert found.epsilon == epsilon_bound(entries, DELTA)
    assert account(entries[:1], DELTA).accountant == "pld"


def test_a_ledger_of_bounds_reports_and_affords_by_bounds() -> None:
    ledger = Ledger("client", DELTA, accountant="rdp")
    ledger.charge(dp.SelfComposedDpEvent(step(), 9), [EVERYONE])
    after = ledger.entries(EVERYONE, extra=step())
    exact, bound = epsilon_of(after, DELTA), epsilon_bound(after, DELTA)
    assert exact < bound
    assert not ledger.affords(step(), [EVERYONE], (exact + bound) / 2)
    assert ledger.affords(step(), [EVERYONE], bound)


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (
            dp.SampledWithoutReplacementDpEvent(100, 10, dp.GaussianDpEvent(1.0)),
            "add_or_remove_one",
        ),
        (dp.PoissonSampledDpEvent(0.1, SkellamSum(1e6, 500.0, 9e4)), "replace_one"),
    ],
)
def test_an_event_that_a_relation_does_not_know_is_refused(event, relation) -> None:
    with pytest.raises(PrivacyError, match=f"only, not under {relation}: ask for"):
        Ledger("client", DELTA, relation=relation).charge(event, [EVERYONE])
    with pytest.raises(PrivacyError, match=f"only, not under {relation}: ask for"):
        account(((event, 1),), DELTA, relation=relation)


def test_unknown_accountants_and_relations_are_one_clear_line() -> None:
    with pytest.raises(PrivacyError, match=r"accountant 'gdp': .*under-reports.*use pld"):
        Ledger("client", DELTA, accountant="gdp")
    with pytest.raises(PrivacyError, match=r"accountant 'magic': there is no such accountant; use"):
        epsilon_of(((gaussian(1.0), 1),), DELTA, accountant="magic")
    with pytest.raises(PrivacyError, match="relation 'swap' is unknown: use add_or_remove_one"):
        epsilon_of(((gaussian(1.0), 1),), DELTA, relation="swap")
    with pytest.raises(PrivacyError, match="delta is 0: it must lie between 0 and 1"):
        epsilon_of(((gaussian(1.0), 1),), 0.0)


@pytest.mark.parametrize("kind", ["gaussian", "sampled", "skellam", "discrete"])
def test_ten_thousand_rounds_of_differing_survivors_account_in_a_second(kind) -> None:
    """Survivors on a grid of a per cent: the events group, whatever the length of the ledger."""
    draws = np.random.default_rng(7).integers(700, 1001, 10_000)
    make = {
        "gaussian": lambda n: gaussian(3 * math.sqrt(n)),
        "sampled": lambda n: step(0.01, 0.05 * math.sqrt(n)),
        "skellam": lambda n: dp.PoissonSampledDpEvent(0.01, SkellamSum(n * 410.0, 400.0, 1.6e5)),
        "discrete": lambda n: dp.PoissonSampledDpEvent(
            0.01, DiscreteGaussianSum(n, 20.25, 400.0, 1.6e5, 2**20)
        ),
    }[kind]
    ledger = Ledger("client", DELTA)
    for survivors in draws:
        ledger.charge(make(on_grid(int(survivors), 1000)), [EVERYONE])
    assert len(ledger.paid[EVERYONE]) == 31
    spent = []
    for _ in range(2):  # best of two: the machine may be shared
        for cached in (_account, renyi_curve, sampled_gaussian):
            cached.cache_clear()
        began = time.process_time()
        epsilon = ledger.largest()
        spent.append(time.process_time() - began)
    assert 0 < epsilon < 10 and min(spent) < 1.0


def test_unknown_events_are_refused() -> None:
    with pytest.raises(PrivacyError, match="LaplaceDpEvent"):
        event_to_json(dp.LaplaceDpEvent(1.0))
    with pytest.raises(PrivacyError, match="'magic'"):
        event_from_json({"event": "magic"})
    with pytest.raises(PrivacyError, match=r"no accountant here knows .*Laplace"):
        Ledger("client", DELTA).charge(dp.LaplaceDpEvent(1.0), [EVERYONE])


def test_self_composition_is_flattened() -> None:
    nested = dp.SelfComposedDpEvent(dp.SelfComposedDpEvent(step(), 3), 4)
    assert flatten(nested) == (step(), 12)


def test_a_coarse_grid_is_refined_where_it_makes_the_number() -> None:
    """At 1e-3 these come out up to twice as large as RDP proves them to be."""
    for rate, noise, steps in ((0.01, 20.0, 1000), (0.001, 5.0, 5000)):
        entries = ((step(rate, noise), steps),)
        coarse = PLDAccountant(ADD_REMOVE, 1e-3).compose(*entries[0]).get_epsilon(DELTA)
        bound = epsilon_bound(entries, DELTA)
        epsilon, grid = accounted(entries, DELTA)
        assert coarse > bound * 1.01 and epsilon <= bound and grid is not None and grid < 1e-3


def test_no_noise_is_an_infinite_epsilon() -> None:
    assert epsilon_of(((dp.GaussianDpEvent(0.0), 1),), DELTA) == float("inf")


def test_many_who_have_paid_the_same_share_a_line() -> None:
    ledger = Ledger("record", DELTA)
    ledger.charge(step(), range(0, 3000, 2))
    ledger.charge(step(), range(0, 3000, 4))
    few = ledger.spends_of_all(1000, assumptions=("so",))
    assert [spend.client for spend in few] == list(range(1000)) and few[0].clients is None
    many = ledger.spends_of_all(1_000_000, assumptions=("so",))
    assert [spend.clients for spend in many] == [1_000_000 - 1500, 750, 750]
    assert {spend.client for spend in many} == {None} and "clients" in many[0].to_json()
    alone = {
        (spend.epsilon, spend.releases): spend
        for spend in ledger.spends([1, 2, 4], assumptions=("so",))
    }
    assert [(spend.epsilon, spend.releases) for spend in many] == sorted(alone)
    assert "clients" not in few[0].to_json()
