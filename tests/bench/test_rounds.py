"""The benchmark of rounds counts all that a round costs, once, and its bars can be missed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from codex_ray.assembly import assemble
from codex_ray.bench import first_result, round_costs
from codex_ray.bench.bare_loops import bare_loops
from codex_ray.bench.first_result import HOSPITALS, TWO_HOSTS, run_and_wait
from codex_ray.bench.parts import measured
from codex_ray.bench.processes import ROLES, by_role, cpu_by_role, most_memory
from codex_ray.bench.round_costs import PARTS, _against_bare, _against_clear
from codex_ray.bench.stages import STAGES, Stopwatch, Watched, stage_seconds
from codex_ray.bench.whole_rounds import Cost, running
from codex_ray.bench.workloads import Workload
from codex_ray.errors import ClusterError

SMALL = Workload("nothing", clients=60, cohort=40, hosts=0, kernel="reference")


def busy(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def test_a_stopwatch_counts_each_moment_for_one_part() -> None:
    stopwatch = Stopwatch()
    began = time.process_time()
    with stopwatch.during("outer"):
        busy(0.02)
        with stopwatch.during("inner"):
            busy(0.05)
        busy(0.02)
    took = time.process_time() - began
    assert sum(stopwatch.spent.values()) == pytest.approx(took, abs=0.005)
    assert stopwatch.spent["inner"] == pytest.approx(0.05, abs=0.01)
    assert stopwatch.spent["outer"] == pytest.approx(0.04, abs=0.01)


def test_a_stand_in_is_the_object_but_for_the_clock() -> None:
    stopwatch = Stopwatch()
    watched = Watched([3, 1, 2], stopwatch, index="looking").having(count=lambda one: 7)
    assert watched.index(2) == 2 and watched.count(3) == 7 and watched.copy() == [3, 1, 2]
    assert list(stopwatch.spent) == ["looking"]


@pytest.mark.parametrize("summing", ["plain", "clear", "dp", "semi-honest"])
def test_the_stages_of_a_round_are_all_of_it(summing) -> None:
    workload = Workload("nothing", summing, clients=200, cohort=100, hosts=0, kernel="reference")
    spent = stage_seconds(workload, warm=1, count=1)
    assert tuple(spent) == STAGES
    assert all(spent[stage] > 0 for stage in ("sample", "data", "train", "encode", "exchange"))
    assert all(spent[stage] > 0 for stage in ("sum", "release", "step", "checkpoint", "observers"))


def test_a_watched_run_is_the_run(tmp_path) -> None:
    """What is taken apart gives the parameters of what is not."""
    from codex_ray.bench import stages as measured

    workload = Workload("logistic", clients=30, cohort=8, hosts=0, kernel="reference")
    states = []
    ordinary = measured.Checkpoints.save

    def keep(self, state):
        states.append(state.params.clone())
        ordinary(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured.Checkpoints, "save", keep)
        stage_seconds(workload, warm=1, count=1)
        with running(workload) as run:
            run.skip(2)
    watched, plain = states[1], states[-1]
    assert len(states) == 5  # two rounds, and the state before the first, and two rounds
    assert np.array_equal(watched.numpy(), plain.numpy()) and watched.abs().sum() > 0


def test_a_round_in_this_process_costs_this_process() -> None:
    with running(SMALL) as run:
        run.skip(1)
        began = time.process_time()
        cost = run.cost(2)
        took = time.process_time() - began
        assert cost.cpu["driver"] * 2 == pytest.approx(took, rel=0.2, abs=0.05)
        assert set(cost.cpu) == set(ROLES) and cost.cpu["hosts"] == 0
        assert {"sample", "train", "sum", "release", "checkpoint"} <= set(cost.stages)
        assert cost.survivors == 40 and cost.wall > 0
        assert run.checkpoint_bytes() > 4 * 7850 and run.peak() > 1e8


def test_processes_have_roles_and_clocks() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "sum(range(3_000_000)); print(1, flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        child.stdout.readline()
        found = by_role()
        assert found["driver"] == [os.getpid()] and child.pid in found["ray"]
        assert child.pid not in by_role(without=[child.pid])["ray"]
        spent = cpu_by_role({"ray": [child.pid], "driver": [os.getpid()], "hosts": []})
        assert 0.01 < spent["ray"] < 60 and spent["hosts"] == 0
        assert spent["driver"] == pytest.approx(time.process_time(), abs=0.05)
        assert most_memory(child.pid) > 1e6
    finally:
        child.communicate(b"\n")
    assert most_memory(child.pid) == 0 and cpu_by_role({"ray": [child.pid]}) == {"ray": 0.0}


@pytest.mark.slow
def test_bare_loops_train_so_many_clients() -> None:
    with bare_loops("logistic", count=1) as loops:
        few, many = loops.train(4)[0], loops.train(80)[0]
    assert 0 < few < many and all(one.returncode == 0 for one in loops.processes)


def cost(cpu: float, survivors: float = 10) -> Cost:
    return Cost(1.0, {"hosts": cpu}, {}, survivors)


def test_the_bars_can_be_missed() -> None:
    walls = [(1.0, 1.0)] * 3
    assert _against_bare("cnn", 1.25, [8.0, 8.0, 9.0], [10.0, 10.4, 20.0], walls).holds
    assert not _against_bare("cnn", 1.25, [8.0, 8.0, 9.0], [9.9, 9.9, 20.0], walls).holds
    assert not _against_bare("cnn", None, [8.0], [20.0], walls[:1]).holds  # there is no bar
    found = {"plain": [cost(10)], "clear": [cost(1)], "semi-honest": [cost(15)]}
    assert _against_clear("semi-honest", 1.6, found).holds
    assert not _against_clear("semi-honest", 1.4, found).holds


def test_every_summing_is_an_experiment() -> None:
    for summing, protocol in (("plain", "ideal"), ("clear", "clear"), ("secagg", "secagg_plus")):
        found = Workload("cnn", summing, clients=1_000_000, cohort=1000).experiment().federation
        assert found.protocol.kind == protocol
        assert found.sampler.expected(1_000_000) == 1000
    secure = Workload("cnn", "semi-honest", cohort=1000).experiment().federation
    assert (secure.protocol.adversary, secure.protocol.assumed_corrupt) == ("semi_honest", 0.05)
    assert len(assemble(Workload("cnn", hosts=0).experiment()).initial) == 59_958


def test_stages_are_measured_at_a_small_scale(monkeypatch) -> None:
    monkeypatch.setattr(round_costs, "SHOWN", (("nothing", "plain"),))
    (row,) = measured(PARTS, ["stages"], scale=0.05)
    values = {one.what: one.value for one in row.figures}
    assert values["clients"] == 40 and values["train, CPU s a round"] > 0
    assert not row.holds  # no bar
    assert set(PARTS) >= {"stages", "hosts", "bare", "secure", "empty", "two-hosts"}


@pytest.mark.slow
def test_the_first_result_is_waited_for() -> None:
    waited = run_and_wait(HOSPITALS | {"cluster": {"hosts": 0}})
    assert 0.5 < waited.first < waited.whole and waited.cpu > 1 and 0 <= waited.others <= 1


def test_a_command_that_fails_is_no_measurement(monkeypatch) -> None:
    monkeypatch.setattr(
        first_result, "_command", lambda: [sys.executable, "-c", "raise OSError(5)"]
    )
    with pytest.raises(ClusterError, match="failed: OSError: 5"):
        run_and_wait(HOSPITALS)
    monkeypatch.setattr(first_result, "run_and_wait", lambda _: first_result.Waited(20.0, 30.0))
    ten, two = first_result.first_result(0.5)
    assert ten.holds and not two.holds and two.figures[0].high == TWO_HOSTS


@pytest.mark.slow
@pytest.mark.parametrize("part", ["empty", "no-op", "two-hosts", "hosts"])
def test_rounds_over_ray_are_measured(part, monkeypatch) -> None:
    monkeypatch.setattr(round_costs, "SHOWN", (("nothing", "plain"),))
    (row,) = measured(PARTS, [part], scale=0.02)
    assert all(np.isfinite(one.value) and one.value >= 0 for one in row.figures)
    values = {one.what: one.value for one in row.figures}
    if part != "two-hosts":
        assert values["hosts, CPU s a round"] > 0 and values["coordinator, CPU s a round"] > 0
