"""The plan of a run: the fastest for its work, from figures that are measured once."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from lane_cases import PLAIN, PRIVATE, SIZES, Residual, cnn, linear, mlp, planned, reference
from torch import nn

from codex_ray.errors import ClusterError
from codex_ray.learning import autotune, race
from codex_ray.learning.autotune import DEVICE_LANES, LANES, SHARE, UNTRIED, Autotune
from codex_ray.learning.batches import ShuffledBatches
from codex_ray.learning.findings import cache_folder, read_findings
from codex_ray.learning.plans import REFERENCE, Plan
from codex_ray.learning.race import BUDGET, SURE

EIGHT = Plan(kernel="vectorised", clients=8)
SIXTEEN = Plan(kernel="vectorised", clients=16)
COMPILED = Plan(kernel="compiled", clients=1)
LONG = 100_000


class Machine:
    """A clock that goes on only where something is trained, by figures that are given."""

    def __init__(self) -> None:
        by_lanes = {1: 0.03, 4: 0.02, 8: 0.01, 16: 0.0101, 32: 0.015, 64: 0.02}
        self.seconds = {("vectorised", lanes): 0.1 * one for lanes, one in by_lanes.items()}
        self.seconds |= {("reference", 1): 0.05, ("compiled", 1): 0.02}
        self.now, self.asked, self.jitter = 0.0, [], lambda: 1.0
        self.elsewhere = 0.0
        self.most, self.has_compiler = 10**6, True

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.elsewhere

    def run(self, plan: Plan):
        def run() -> None:
            if plan == COMPILED and plan not in self.asked:
                self.elsewhere += 30.0  # A compiler is a process of its own.
            self.asked.append(plan)
            if plan.clients > self.most:
                raise torch.OutOfMemoryError
            if plan == COMPILED and not self.has_compiler:
                raise ClusterError("plan.kernel is compiled, but") from RuntimeError("no g++")
            self.now += plan.clients * self.seconds[plan.kernel, plan.clients] * self.jitter()

        return run


class OnMachine(Autotune):
    """Autotune on a machine of which everything is known."""

    machine: Machine

    def _run(self, plan: Plan):
        return self.machine.run(plan)


@pytest.fixture
def machine():
    """Chunks of eight are fastest, and of sixteen nearly; compiled is faster than the reference."""
    return Machine()


@pytest.fixture
def plan(machine, tmp_path):
    """The plan of a run on that machine."""

    def plan(make=linear, trainer=PLAIN, updates=LONG, folder=tmp_path, **changes) -> Plan:
        tuning = OnMachine(
            reference(make, trainer), updates, folder=folder,
            clock=machine.clock, wall=machine.wall, **{"cores": 1, **changes},
        )  # fmt: skip
        object.__setattr__(tuning, "machine", machine)
        return tuning.plan()

    return plan


def test_the_fastest_plan_is_found(machine, plan) -> None:
    assert plan() == EIGHT
    # Those that are clearly slower are timed thrice, after a first time that does not count.
    counts = {clients: [p.clients for p in machine.asked].count(clients) for clients in LANES}
    assert counts[4] == counts[32] == counts[64] == 1 + SURE
    assert counts[8] == counts[16] > 5


def test_of_plans_alike_the_smallest_chunk_is_taken(machine, plan, tmp_path) -> None:
    machine.seconds["vectorised", 16] = 0.99 * machine.seconds["vectorised", 8]
    assert plan() == EIGHT
    machine.seconds["vectorised", 16] = 0.9 * machine.seconds["vectorised", 8]
    assert plan(folder=tmp_path / "other") == SIXTEEN


def test_the_choice_is_the_same_whatever_else_the_machine_does(machine, plan, tmp_path) -> None:
    """Many times are up to twice as long as they would be; the least of a few is not."""
    machine.seconds["vectorised", 16] = 1.07 * machine.seconds["vectorised", 8]
    rng = np.random.default_rng(0)
    machine.jitter = lambda: 1 + 0.02 * rng.random() + (rng.random() < 0.3) * rng.random()
    found = [plan(updates=10**6, folder=tmp_path / str(number)) for number in range(20)]
    assert found.count(EIGHT) >= 19


@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
@pytest.mark.parametrize("updates", [1, 20, 300])
def test_a_short_run_times_nothing_and_leaves_nothing(
    machine, plan, trainer, updates, tmp_path
) -> None:
    found = plan(trainer=trainer, updates=updates)
    assert (found.kernel, found.clients) == (
        "vectorised",
        max(2, min(UNTRIED, updates)),  # A lone lane has other bits than two.
    )
    assert plan(Residual, trainer, updates) == REFERENCE
    assert not machine.asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("updates", [20_000, 25_000, 30_000, 10**6])
@pytest.mark.parametrize("slow", [0.1, 1.0, 10.0, 1000.0])
def test_trying_takes_a_fiftieth_of_a_run_at_most(machine, plan, updates, slow) -> None:
    for key in machine.seconds:
        machine.seconds[key] *= slow
    plan(updates=updates)
    spent = sum(asked.clients for asked in machine.asked)
    assert spent <= SHARE * updates
    # One chunk may go over: it is not known before how long it takes.
    assert machine.now <= BUDGET + 64 * machine.seconds["vectorised", 64]


def test_a_stack_is_always_vectorised_and_the_reference_never_timed(machine, plan) -> None:
    machine.seconds["reference", 1] = 1e-6
    assert plan().kernel == "vectorised"
    assert REFERENCE not in machine.asked


def test_the_reference_stays_where_it_is_fastest(machine, plan) -> None:
    machine.seconds["reference", 1] = 0.002
    assert plan(Residual, updates=10_000) == REFERENCE


def test_large_models_get_small_chunks(machine, plan, monkeypatch) -> None:
    """Where there is room for few, whether they are tried or not."""
    monkeypatch.setattr(autotune, "ROOM", 1 << 13)
    assert plan(updates=20).clients == 2
    machine.seconds["vectorised", 2] = 0.01
    assert plan(updates=LONG).clients == 2


def test_on_a_gpu_chunks_are_larger(machine, plan) -> None:
    assert plan(updates=1000, device="meta").clients == 256
    assert plan(updates=100, device="meta").clients == 100


def test_the_number_of_hosts_chooses_nothing_that_bits_depend_on(plan, machine, tmp_path) -> None:
    """One client update for each of many hosts, or a race that one of them would not have run."""
    for hosts in (1, 10, 300):
        assert plan(updates=20, hosts=hosts).clients == UNTRIED
        found = plan(Residual, updates=500, hosts=hosts, folder=tmp_path / str(hosts))
        assert found == Plan(kernel="vectorised", clients=1)
        lanes = plan(updates=700, hosts=hosts, device="meta", folder=tmp_path / f"{hosts} on meta")
        assert lanes.clients == 256
    assert plan(updates=1, hosts=1).clients == 2
    # What a stack is timed for is the work of one host.
    tried = len(machine.asked)
    plan(updates=LONG, hosts=10_000)
    assert len(machine.asked) == tried


class Dropping(nn.Sequential):
    """Draws at random in training, which nothing but the reference can do."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(144, 3), nn.Dropout())


@pytest.mark.parametrize("updates", [10, LONG])
@pytest.mark.parametrize(
    ("make", "precision", "kernel", "said"),
    [
        (linear, "float32", "vectorised", None),
        (linear, "bfloat16", "vectorised", None),
        (Residual, "float32", None, "one at a time: the model is no stack of common layers"),
        (Residual, "bfloat16", "vectorised", "one at a time: the model is no stack"),
        (Dropping, "float32", "reference", "one at a time: the model"),
        (Dropping, "bfloat16", "reference", "one at a time, and in float32: the model has no"),
    ],
)
def test_what_cannot_be_vectorised_is_said_once(
    plan, caplog, make, precision, kernel, said, updates
) -> None:
    with caplog.at_level(logging.WARNING):
        found = plan(make, updates=updates, precision=precision)
    assert kernel in (None, found.kernel)
    assert len(caplog.messages) == (said is not None)
    assert said is None or said in caplog.messages[0]


def test_a_driver_without_a_gpu_settles_for_hosts_that_have_one(plan, machine, monkeypatch) -> None:
    """Without a look at the device: neither a race, nor a try of the model's gradient."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for make in (linear, Residual):
        found = plan(make, device="cuda")
        assert found == Plan(kernel="vectorised", clients=256, device="cuda")
    assert plan(Dropping, device="cuda") == REFERENCE
    assert not machine.asked


def test_a_plan_without_memory_is_out_of_the_race(plan, machine, tmp_path) -> None:
    machine.seconds |= {("vectorised", lanes): 1e-3 / lanes for lanes in DEVICE_LANES}
    machine.most = 128
    assert plan(updates=10**6, device="meta").clients == 128
    (file,) = tmp_path.iterdir()
    assert [one.plan.clients for one in read_findings(file) or []] == [32, 128]
    machine.most = 1
    assert plan(cnn, updates=10**6, device="meta").clients == 32


@pytest.mark.parametrize("batches", [PRIVATE.batches, ShuffledBatches(batch_size=10)])
def test_room_is_made_for_the_gradient_of_every_row(batches) -> None:
    """Of those that are held: all by torch.func, and those of convolutions in a stack."""

    def room(make, trainer) -> int:
        return Autotune(reference(make, trainer), LONG, "meta")._room()

    private = PRIVATE.model_copy(update={"batches": batches})
    assert 10 <= 2 * room(Residual, PLAIN) / room(Residual, private) <= 30
    assert room(cnn, private) < room(cnn, PLAIN)
    assert room(mlp, private) == room(mlp, PLAIN)


def test_compiling_must_pay(machine, plan, tmp_path) -> None:
    """At 0.03 s an update uncompiled and 0.02 compiled, 30 s of compiling is 3000 updates.

    The first client has two steps compiled as one, of 1 + 2 + 4 + 8 that all may have.
    """
    machine.seconds["vectorised", 1] = 0.03
    assert plan(Residual, updates=10_000, folder=tmp_path / "short").kernel == "vectorised"
    assert COMPILED not in machine.asked  # 300 s of work are not worth a try of a minute
    long = tmp_path / "long"
    assert plan(Residual, updates=LONG, folder=long) == COMPILED
    # Now that the figures are known, a shorter run may take it too, and a very short one may not.
    asked = len(machine.asked)
    assert plan(Residual, updates=30_000, folder=long) == COMPILED
    assert plan(Residual, updates=21_000, folder=long).kernel == "vectorised"
    assert len(machine.asked) == asked


def test_every_core_waits_for_what_one_compiles(machine, plan, tmp_path) -> None:
    machine.seconds["vectorised", 1] = 0.03
    assert plan(Residual, updates=LONG, folder=tmp_path, cores=8).kernel == "vectorised"
    assert COMPILED not in machine.asked  # 3000 s of work are six minutes of eight cores
    assert plan(Residual, updates=10**6, folder=tmp_path, cores=8) == COMPILED
    # 225 s before the last client's first update are 1800 of eight cores.
    for hosts in (1, 50):
        known = {"folder": tmp_path, "cores": 8, "hosts": hosts}
        assert plan(Residual, updates=150_000, **known).kernel == "vectorised"
        assert plan(Residual, updates=250_000, **known) == COMPILED


def test_what_cannot_be_compiled_is_no_finding(plan, machine, caplog, tmp_path) -> None:
    machine.seconds["vectorised", 1] = 0.03
    machine.has_compiler = False
    with caplog.at_level(logging.WARNING):
        assert plan(Residual).kernel == "vectorised"
    assert [line for line in caplog.messages if "compiled" in line] == [
        "training is not compiled (RuntimeError: no g++): it goes on without, which is slower"
    ]
    (file,) = tmp_path.iterdir()
    assert "compiled" not in {one.plan.kernel for one in read_findings(file) or []}
    machine.has_compiler = True
    assert plan(Residual) == COMPILED


def test_stacks_are_never_compiled(machine, plan) -> None:
    plan(cnn, PRIVATE, 10**7)
    assert COMPILED not in machine.asked


def test_findings_are_remembered_for_the_same_and_for_nothing_else(machine, plan) -> None:
    def asked(**changes) -> int:
        before = len(machine.asked)
        plan(**changes)
        return len(machine.asked) - before

    assert asked() > 0
    assert asked() == 0
    for other in (
        {"make": mlp},
        {"trainer": PRIVATE},
        {"trainer": PLAIN.model_copy(update={"learning_rate": 0.7})},
        {"precision": "bfloat16"},
    ):
        assert asked(**other) > 0
        assert asked(**other) == 0


def test_another_torch_is_tried_again(machine, plan, monkeypatch) -> None:
    plan()
    tried = len(machine.asked)
    monkeypatch.setattr(torch, "__version__", "9.9")
    plan()
    assert len(machine.asked) == 2 * tried


def test_other_kernels_are_tried_again(machine, plan, monkeypatch) -> None:
    plan()
    tried = len(machine.asked)
    monkeypatch.setattr("codex_ray.__version__", "9.9")
    plan()
    monkeypatch.setattr(autotune, "kernels_digest", lambda: "others")
    plan()
    assert len(machine.asked) == 3 * tried


@pytest.mark.parametrize("broken", [b"", b"{", b'[{"plan": 3}]', b"\xff\x00", b"[]"])
def test_a_broken_file_is_no_reason_to_stop(plan, tmp_path, caplog, broken) -> None:
    assert plan() == EIGHT
    (file,) = tmp_path.iterdir()
    file.write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        assert plan() == EIGHT
    assert "tried again" in caplog.text
    assert json.loads(file.read_bytes())


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(plan, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        found = plan(folder=tmp_path / "file" / "in")
    assert found == EIGHT
    assert "cannot be written" in caplog.text


def test_the_folder_is_the_environments(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CODEX_RAY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CODEX_RAY_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "codex_ray")


def test_what_is_tried_for_real_trains_and_changes_nothing(tmp_path, monkeypatch) -> None:
    """Real training by the real clock, whose figures nothing here depends on."""
    monkeypatch.setattr(race, "BUDGET", 0.2)
    training = reference(mlp, PRIVATE)
    params = training.model.get()
    before = planned(training).train(params, range(5), 0)
    plan = Autotune(training, LONG, folder=tmp_path).plan()
    assert plan.kernel == "vectorised" and plan.clients in LANES
    (file,) = tmp_path.iterdir()
    assert plan in {one.plan for one in read_findings(file) or []}
    assert torch.equal(training.model.get(), params)
    assert torch.equal(planned(training).train(params, range(5), 0), before)


@pytest.mark.parametrize("make", [linear, cnn])
@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
def test_no_choice_that_is_timed_changes_a_bit(make, trainer) -> None:
    """A stack's chunks are all that is timed: they are nothing to its updates."""
    training, clients = reference(make, trainer), range(len(SIZES))
    params = training.model.get()
    whole = planned(training, clients=UNTRIED).train(params, clients, 0)
    for lanes in (2, *LANES):
        assert torch.equal(planned(training, clients=lanes).train(params, clients, 0), whole)
