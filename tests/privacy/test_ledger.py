"""The ledger's epsilon is dp-accounting's, called directly; its budget is never overspent."""

from __future__ import annotations

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant as OpacusRdp

from codex_ray.errors import PrivacyError
from codex_ray.learning.batches import PoissonBatches
from codex_ray.privacy.events import event_from_json, event_to_json, flatten
from codex_ray.privacy.ledger import EVERYONE, Ledger, accounted, epsilon_bound, epsilon_of

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


def test_published_figures() -> None:
    """q=.01, sigma=1, T=1000, delta=1e-5; the meter's integer orders cost it 0.3 % over 2.1014."""
    entries = ((step(0.01, 1.0), 1000),)
    assert epsilon_of(entries, DELTA) == pytest.approx(1.829, abs=0.002)
    assert epsilon_bound(entries, DELTA) == pytest.approx(2.1077, abs=0.001)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.2, 1.5, 50)])
def test_opacus_rdp_agrees_for_the_same_events(rate, noise, steps) -> None:
    opacus = OpacusRdp()
    opacus.history = [(noise, rate, steps)]
    orders = [*range(2, 64)]
    ours = RdpAccountant(orders, ADD_REMOVE).compose(step(rate, noise), steps)
    theirs = opacus.get_epsilon(DELTA, alphas=orders)
    assert theirs == pytest.approx(ours.get_epsilon(DELTA), rel=1e-3)
    assert epsilon_bound(((step(rate, noise), steps),), DELTA) == pytest.approx(theirs, rel=1e-3)


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
    ledger = Ledger("record", DELTA)
    ledger.charge(step(), [0, 5])
    ledger.charge(dp.GaussianDpEvent(2.0), [5])
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_unknown_events_are_refused() -> None:
    with pytest.raises(PrivacyError, match="LaplaceDpEvent"):
        event_to_json(dp.LaplaceDpEvent(1.0))
    with pytest.raises(PrivacyError, match="'magic'"):
        event_from_json({"event": "magic"})


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
        assert coarse > bound * 1.01 and epsilon <= bound * 1.01 and grid < 1e-3


def test_no_noise_is_an_infinite_epsilon() -> None:
    assert epsilon_of(((dp.GaussianDpEvent(0.0), 1),), DELTA) == float("inf")
