"""The plan of a run: the fastest for its work, from figures that are measured once."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from lane_cases import PLAIN, PRIVATE, Residual, cnn, linear, mlp, planned, reference

from codex_ray.learning import autotune
from codex_ray.learning.autotune import Autotune, Finding, cache_folder
from codex_ray.learning.plans import REFERENCE, Plan

EIGHT = Plan(kernel="vectorised", clients=8)
FOUR = Plan(kernel="vectorised", clients=4)
COMPILED = Plan(kernel="compiled", clients=1)


class Rates(Autotune):
    """Autotune with figures that are given, on a machine that takes no time."""

    seconds: dict[tuple[str, int], float] = {}  # noqa: RUF012  # set by each test
    asked: list[Plan] = []  # noqa: RUF012

    def _measured(self, plan: Plan, *, clients: int) -> Finding:
        self.asked.append(plan)
        before = 30.0 if plan.kernel == "compiled" else 0.0
        return Finding(plan=plan, seconds=self.seconds[plan.kernel, plan.clients], before=before)


@pytest.fixture
def rates(monkeypatch):
    """Chunks of four are fastest; compiled is faster than the reference."""
    by_lanes = {1: 3.0, 2: 2.0, 4: 1.0, 8: 1.01, 16: 1.5, 32: 1.6, 64: 2.0}
    seconds = {("vectorised", lanes): 0.01 * found for lanes, found in by_lanes.items()}
    seconds |= {("reference", 1): 0.05, ("compiled", 1): 0.02}
    monkeypatch.setattr(Rates, "seconds", seconds)
    monkeypatch.setattr(Rates, "asked", [])
    return Rates


def test_the_fastest_plan_is_found(rates, tmp_path) -> None:
    training = reference(linear, PLAIN)
    assert rates(training, 10_000, folder=tmp_path, clock=lambda: 0.0).plan() == FOUR
    # Two chunks in a row that gain nothing are enough.
    assert [plan.clients for plan in rates.asked] == [1, 1, 2, 4, 8, 16]


def test_of_plans_alike_the_smallest_chunk_is_taken(rates, tmp_path) -> None:
    rates.seconds["vectorised", 8] = 0.99 * rates.seconds["vectorised", 4]
    assert rates(reference(linear, PLAIN), 10_000, folder=tmp_path).plan() == FOUR
    rates.seconds["vectorised", 8] = 0.9 * rates.seconds["vectorised", 4]
    other = tmp_path / "other"
    assert rates(reference(linear, PLAIN), 10_000, folder=other).plan() == EIGHT


def test_trying_ends_when_time_is_up(rates, tmp_path) -> None:
    seconds = iter(range(1000))
    rates(reference(linear, PLAIN), 10_000, folder=tmp_path, clock=lambda: next(seconds)).plan()
    assert len(rates.asked) < 6


def test_a_short_run_tries_nothing_and_leaves_nothing(rates, tmp_path) -> None:
    assert rates(reference(linear, PLAIN), 20, folder=tmp_path).plan() == EIGHT
    assert rates(reference(linear, PLAIN), 3, folder=tmp_path).plan().clients == 3
    assert rates(reference(Residual, PLAIN), 20, folder=tmp_path).plan() == REFERENCE
    assert {plan.kernel for plan in rates.asked} == {"reference"}
    assert not list(tmp_path.iterdir())


def test_the_reference_stays_where_it_is_fastest(rates, tmp_path) -> None:
    rates.seconds["reference", 1] = 0.005
    assert rates(reference(linear, PLAIN), 10_000, folder=tmp_path).plan() == REFERENCE


def test_compiling_must_pay(rates, tmp_path) -> None:
    """At 0.03 s an update uncompiled and 0.02 compiled, 30 s of compiling is 3000 updates."""
    training = reference(Residual, PLAIN)
    assert rates(training, 10_000, folder=tmp_path / "short").plan().kernel == "vectorised"
    assert COMPILED not in rates.asked  # 300 s of work are not worth a try of a minute
    long = tmp_path / "long"
    assert rates(training, 100_000, folder=long).plan() == COMPILED
    # Now that the figures are known, a shorter run may take it too, and a very short one may not.
    assert rates(training, 4_000, folder=long).plan() == COMPILED
    assert rates(training, 2_000, folder=long).plan().kernel == "vectorised"
    assert rates.asked.count(COMPILED) == 1


def test_stacks_are_never_compiled(rates, tmp_path) -> None:
    rates(reference(cnn, PRIVATE), 10**7, folder=tmp_path).plan()
    assert COMPILED not in rates.asked


def test_findings_are_remembered_for_the_same_and_for_nothing_else(rates, tmp_path) -> None:
    def plan(make=linear, trainer=PLAIN, **changes):
        before = len(rates.asked)
        rates(reference(make, trainer), 10_000, folder=tmp_path, **changes).plan()
        return len(rates.asked) - before

    assert plan() > 0
    assert plan() == 0
    for other in (
        {"make": mlp},
        {"trainer": PRIVATE},
        {"trainer": PLAIN.model_copy(update={"learning_rate": 0.7})},
        {"precision": "bfloat16"},
    ):
        assert plan(**other) > 0
        assert plan(**other) == 0


def test_another_torch_is_tried_again(rates, tmp_path, monkeypatch) -> None:
    rates(reference(linear, PLAIN), 10_000, folder=tmp_path).plan()
    tried = len(rates.asked)
    monkeypatch.setattr(torch, "__version__", "9.9")
    rates(reference(linear, PLAIN), 10_000, folder=tmp_path).plan()
    assert len(rates.asked) == 2 * tried


@pytest.mark.parametrize("broken", [b"", b"{", b'[{"plan": 3}]', b"\xff\x00", b"[]"])
def test_a_broken_file_is_no_reason_to_stop(rates, tmp_path, caplog, broken) -> None:
    training = reference(linear, PLAIN)
    assert rates(training, 10_000, folder=tmp_path).plan() == FOUR
    (file,) = tmp_path.iterdir()
    file.write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        assert rates(training, 10_000, folder=tmp_path).plan() == FOUR
    assert "tried again" in caplog.text
    assert json.loads(file.read_bytes())


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(rates, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        found = rates(reference(linear, PLAIN), 10_000, folder=tmp_path / "file" / "in").plan()
    assert found == FOUR
    assert "cannot be written" in caplog.text


def test_the_folder_is_the_environments(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CODEX_RAY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CODEX_RAY_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "codex_ray")


def test_what_is_tried_for_real_trains_and_changes_nothing(tmp_path, monkeypatch) -> None:
    """Real training by the real clock, whose figures nothing here depends on."""
    monkeypatch.setattr(autotune, "WORTH_TRYING", 0.0)
    monkeypatch.setattr(autotune, "BUDGET", 0.2)
    training = reference(mlp, PRIVATE)
    params = training.model.get()
    before = planned(training).train(params, range(5), 0)
    plan = Autotune(training, 5_000, folder=tmp_path).plan()
    assert plan in {one.plan for one in Autotune(training, 5_000, folder=tmp_path)._read() or []}
    assert torch.equal(training.model.get(), params)
    assert torch.equal(planned(training).train(params, range(5), 0), before)
