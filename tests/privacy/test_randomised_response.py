"""Randomised response is accounted exactly, alone and beside Gaussian noise."""

from __future__ import annotations

import json
import math

import dp_accounting as dp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import account
from codex_ray.privacy.curve import privacy_curve
from codex_ray.privacy.events import (
    answers,
    check_relation,
    event_from_json,
    event_in_words,
    event_to_json,
)
from codex_ray.privacy.ledger import EVERYONE, Ledger
from codex_ray.privacy.renyi import ORDERS, renyi_curve

REPLACE = "replace_one"


def response(epsilon: float, labels: int = 2) -> dp.DpEvent:
    """The event at which a kept label is e^epsilon times as likely as each other one."""
    kept = 1 / (1 + (labels - 1) * math.exp(-epsilon))
    return dp.RandomizedResponseDpEvent(labels * (1 - kept) / (labels - 1), labels)


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("epsilon", [0.05, 0.7133, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_one_answer_has_the_epsilon_of_its_closed_form(epsilon, labels, delta) -> None:
    """delta(e) = P[true] - e^e P[other]: the grid may add a step to it, and takes nothing."""
    event = response(epsilon, labels)
    kept, other = answers(event)
    assert math.log(kept / other) == pytest.approx(epsilon)
    exact = max(0.0, math.log((kept - delta) / other))
    found = account(((event, 1),), delta, relation=REPLACE)
    assert found.accountant == "pld"
    assert exact - 1e-9 <= found.epsilon <= min(exact + 1e-3, found.bound * 1.01 + 1e-9)


@pytest.mark.parametrize(("answered", "noise"), [(1, 8.0), (3, 8.0), (3, 30.0)])
def test_answers_and_gaussians_compose_exactly(answered, noise) -> None:
    """Each number of kept labels has a Gaussian profile of its own; they are mixed by hand."""
    kept, _ = answers(response(0.5))
    spread = noise / math.sqrt(answered) / 2

    def delta(epsilon: float) -> float:
        total = 0.0
        for turned in range(answered + 1):
            weight = (
                math.comb(answered, turned) * kept ** (answered - turned) * (1 - kept) ** turned
            )
            left = epsilon - 0.5 * (answered - 2 * turned)
            near, far = 1 / (2 * spread) - left * spread, -1 / (2 * spread) - left * spread
            total += weight * (norm.cdf(near) - math.exp(left) * norm.cdf(far))
        return total

    exact = brentq(lambda epsilon: delta(epsilon) - 1e-5, 0.01, 10)
    both = dp.ComposedDpEvent((dp.GaussianDpEvent(noise), response(0.5)))
    apart = ((response(0.5), answered), (dp.GaussianDpEvent(noise), answered))
    for entries in (((both, answered),), apart):
        found = account(entries, 1e-5, relation=REPLACE)
        assert found.epsilon == pytest.approx(exact, abs=2e-4)
        assert found.bound >= exact


@pytest.mark.parametrize("labels", [2, 3, 10])
def test_the_renyi_curve_is_that_of_the_two_distributions(labels) -> None:
    event = response(1.3, labels)
    kept, other = answers(event)
    mine = np.array([kept, other, *[other] * (labels - 2)])
    theirs = np.array([other, kept, *[other] * (labels - 2)])
    for order, found in zip(ORDERS, renyi_curve(event, REPLACE), strict=True):
        if order < 64:
            exact = math.log(np.sum(mine**order * theirs ** (1 - order))) / (order - 1)
            assert found == pytest.approx(exact, rel=1e-9)
    assert renyi_curve(event, REPLACE)[-1] == pytest.approx(1.3, abs=1e-3)


def test_it_is_known_under_replace_one_only() -> None:
    both = dp.ComposedDpEvent((dp.GaussianDpEvent(2.0), response(1.0)))
    for event in (response(1.0), both):
        check_relation(event, REPLACE)
        with pytest.raises(PrivacyError, match="replace_one only"):
            check_relation(event, "add_or_remove_one")


def test_a_ledger_holds_it_and_writes_it_down() -> None:
    both = dp.ComposedDpEvent((dp.GaussianDpEvent(8.0), response(0.5, 3)))
    ledger = Ledger("record", 1e-5, relation=REPLACE)
    ledger.charge(both, [EVERYONE])
    assert event_from_json(json.loads(json.dumps(event_to_json(both)))) == both
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
    assert event_in_words(both) == (
        "Gaussian, noise multiplier 8 and randomised response among 3 labels, epsilon 0.5"
    )
    assert ledger.affords(both, [EVERYONE], 5.0) and not ledger.affords(both, [EVERYONE], 1.5)


def test_its_curve_is_flat_in_delta() -> None:
    """Pure privacy: the epsilon hardly depends on delta, and no test beats e^epsilon."""
    curve = privacy_curve(((response(1.0), 1),), 1e-5, relation=REPLACE)
    epsilons = dict(curve.epsilons)
    assert epsilons[1e-10] == pytest.approx(1.0, abs=1e-3)
    rates = dict(curve.true_positive_rates)
    assert rates[0.001] == pytest.approx(0.001 * math.e, rel=2e-3)
    assert curve.rho is None
