"""Payments read like a dictionary of dictionaries, and a million holders take little room."""

from __future__ import annotations

import tracemalloc
from copy import deepcopy

import dp_accounting as dp
import numpy as np
import pytest

from codex_ray.privacy import ledger as ledgers
from codex_ray.privacy import payments
from codex_ray.privacy.ledger import EVERYONE, Ledger
from codex_ray.privacy.payments import Payments


def gaussian(noise: float) -> dp.DpEvent:
    return dp.GaussianDpEvent(noise)


def test_they_are_what_a_dictionary_would_be(monkeypatch) -> None:
    monkeypatch.setattr(payments, "SPARE", 2)
    rng, ours, plain = np.random.default_rng(0), Payments(), {}
    for step in range(60):
        event, times = gaussian(float(rng.integers(1, 5))), int(rng.integers(1, 3))
        holders = sorted(rng.choice(300, size=rng.integers(0, 40), replace=False).tolist())
        ours.charge(event, times, holders)
        for holder in holders:
            counts = plain.setdefault(holder, {})
            counts[event] = counts.get(event, 0) + times
        if step % 20 == 0:
            ours.charge(event, 1, [EVERYONE])
            everyone = plain.setdefault(EVERYONE, {})
            everyone[event] = everyone.get(event, 0) + 1
    assert ours == plain and list(ours) == sorted(plain) and len(ours) == len(plain)
    assert {holder: list(ours[holder]) for holder in ours} == {
        holder: list(counts) for holder, counts in sorted(plain.items())
    }  # in the order in which they were first paid
    different = {tuple(counts.items()) for counts in plain.values()}
    assert set(ours.different()) == different and len(ours.different()) == len(different)
    assert set(ours.different([0, 1])) <= different | {()}
    grouped = {holder: dict(history) for history, some in ours.groups() for holder in some}
    assert grouped == plain
    assert len(ours._histories) <= 2 * (len(different) + 1) + 2  # those of the past are gone


def test_histories_of_the_past_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(payments, "SPARE", 2)
    ours = Payments({3: {gaussian(9.0): 4}})
    for step in range(30):
        ours.charge(gaussian(1.0), 1, [EVERYONE, 5])
        assert ours[5] == ours[EVERYONE] == {gaussian(1.0): step + 1}
        assert ours[3] == {gaussian(9.0): 4} and len(ours._histories) <= 8


def test_who_has_paid_nothing_is_not_there() -> None:
    ours = Payments()
    ours.charge(gaussian(1.0), 2, [3])
    assert 3 in ours and 2 not in ours and 10**9 not in ours and EVERYONE not in ours
    assert ours.get(2) is None and ours.history(10**9) == () and ours.history(-5) == ()
    with pytest.raises(KeyError):
        ours[2]
    with pytest.raises(ValueError, match="holder -2: clients are numbered from 0"):
        ours.charge(gaussian(1.0), 1, [-2])
    assert list(Payments().groups()) == [] and Payments().different() == []


def test_a_copy_is_a_copy() -> None:
    ours = Payments({1: {gaussian(1.0): 1}})
    copy = deepcopy(ours)
    copy.charge(gaussian(2.0), 1, [1])  # where there is room already
    assert ours == {1: {gaussian(1.0): 1}}
    copy.charge(gaussian(2.0), 1, [1, 9])
    assert ours == {1: {gaussian(1.0): 1}} and set(copy) == {1, 9}
    ours[1][gaussian(3.0)] = 5  # what is read is nobody's
    assert ours == {1: {gaussian(1.0): 1}}


@pytest.mark.parametrize("holders", [7, ledgers.APART + 500])
def test_a_ledger_of_many_is_written_by_history(holders) -> None:
    ledger = Ledger("record", 1e-5)
    ledger.charge(gaussian(1.0), range(holders))
    ledger.charge(gaussian(2.0), range(1, holders, 2))
    written = ledger.to_json()
    assert Ledger.from_json(written) == ledger
    assert len(written["paid"]) == (holders if holders < 10 else 2)


def test_a_million_holders_are_charged_copied_and_written_in_little_room() -> None:
    ledger = Ledger("record", 1e-5)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for _ in range(5):
            ledger = deepcopy(ledger)
            ledger.charge(gaussian(1.0), rng.choice(1_000_000, size=1000, replace=False).tolist())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 30_000_000
    assert 4900 < len(ledger.paid) <= 5000 and len(ledger.paid.different()) <= 5
