"""A plan says how training is computed, and survives being written down."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext

import pytest
import torch
from lane_cases import PLAIN, PRIVATE, SIZES, Held, Residual, linear, mlp, planned, reference
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from codex_ray.errors import ClusterError
from codex_ray.learning import mapped
from codex_ray.learning.asked_plan import AskedPlan
from codex_ray.learning.compiled import Compiled
from codex_ray.learning.mapped import _exact_convolutions
from codex_ray.learning.plans import REFERENCE, Plan

EVERYBODY = range(len(SIZES))


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(kernel="vectorised", clients=16),
        Plan(kernel="compiled", clients=2, precision="bfloat16", device="cuda:1"),
    ],
)
def test_a_plan_survives_json(plan) -> None:
    assert Plan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json")))) == plan


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clients": 4}, "plan.kernel"),
        ({"precision": "bfloat16"}, "plan.kernel"),
        ({"kernel": "vectorised", "clients": 0}, "clients"),
        ({"kernel": "vectorised", "device": "abacus"}, "abacus"),
        ({"kernel": "fastest"}, "kernel"),
    ],
)
def test_what_is_no_plan_is_refused(fields, said) -> None:
    with pytest.raises(ValidationError, match=said):
        Plan(**fields)


def test_the_default_is_the_reference() -> None:
    assert Plan() == REFERENCE and REFERENCE.product == torch.float32


@pytest.mark.slow
def test_a_compiled_step_is_the_references(caplog) -> None:
    """The one compiled training of the fast suite: a module that is no stack."""
    training = reference(Residual, PLAIN, Held(sizes=(20, 10, 20)))
    params = training.model.get()
    compiled = planned(training, clients=1, kernel="compiled")
    with caplog.at_level(logging.WARNING):
        found = compiled.train(params, [0, 1, 2], 0)
    assert not caplog.messages
    assert (found - training.train(params, [0, 1, 2], 0)).abs().max() < 1e-5
    assert torch.equal(compiled.train(params, [2, 1, 0], 0), found[[2, 1, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("make", [linear, mlp, Residual])
@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
def test_compiled_updates_are_the_references(make, trainer) -> None:
    training = reference(make, trainer)
    params = training.model.get()
    compiled = planned(training, kernel="compiled")
    found = compiled.train(params, EVERYBODY, 2)
    assert (found - training.train(params, EVERYBODY, 2)).abs().max() < 1e-5
    order = [5, 3, 9, 0]
    assert torch.equal(compiled.train(params, order, 2), found[order])


def test_only_full_batches_are_compiled_and_each_function_by_itself(monkeypatch) -> None:
    """Torch gives up on code that it has compiled a few times, for one shape after another."""
    codes, lengths = set(), set()

    def compile_(function, **_):
        codes.add(function.__code__)

        def call(*arguments):
            lengths.add(tuple(arguments[2].shape))  # labels: of a batch, or of a program
            return function(*arguments)

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    for number in range(1, 4):
        training = reference(Residual, PLAIN)
        planned(training, kernel="compiled").train(training.model.get(), EVERYBODY, 0)
        assert len(codes) == 2 * number
    rows = PLAIN.batches.batch_size
    assert lengths == {(1, rows), (2, rows)}


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    """A machine on which nothing can be compiled."""

    def compile_(function, **options):
        def call(*arguments):
            raise RuntimeError("No working C++ compiler found\nand a page of hints")

        return call

    monkeypatch.setattr(torch, "compile", compile_)


def test_a_host_without_a_compiler_is_refused(no_compiler) -> None:
    """Were it to go on without, its clients' updates would have other bits than elsewhere."""
    training = reference(Residual, PLAIN)
    said = r"cannot compile the training \(RuntimeError: No working C\+\+ compiler found\): install"
    with pytest.raises(ClusterError, match=said):
        planned(training, kernel="compiled").train(training.model.get(), EVERYBODY, 0)


@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
def test_without_a_compiler_none_is_planned_for_and_that_is_said_once(
    no_compiler, trainer, caplog
) -> None:
    asked = AskedPlan(kernel="compiled", precision="bfloat16")
    with caplog.at_level(logging.WARNING):
        plan = asked.settled(reference(Residual, trainer), updates=50, gpus=0)
    assert (plan.kernel, plan.precision) == ("vectorised", "bfloat16")
    assert caplog.messages == [
        "training is not compiled (RuntimeError: No working C++ compiler found): it goes on "
        "without, which is slower"
    ]
    # Whether the hosts' GPUs can is not known here, and is not tried.
    assert asked.settled(reference(Residual, trainer), updates=50, gpus=1).kernel == "compiled"


class Chancy(nn.Module):
    """Draws at random in training, which no kernel can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(functional.dropout(images, training=self.training))


@pytest.mark.parametrize("kernel", ["vectorised", "compiled"])
def test_a_kernel_that_cannot_train_the_model_is_settled_as_none_and_said(kernel, caplog) -> None:
    """Hosts would find out for themselves, but nobody reads their logs."""
    with caplog.at_level(logging.WARNING):
        found = AskedPlan(kernel=kernel).settled(reference(Chancy, PLAIN), updates=50, gpus=0)
    assert found.plan == REFERENCE and found.kernel == "reference"
    (said,) = caplog.messages
    assert "trained one at a time" in said and "random" in said


@pytest.mark.parametrize("kernel", ["vectorised", "compiled"])
def test_a_plan_has_as_many_lanes_as_its_kernel(kernel, uncompiled, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        found = AskedPlan(kernel=kernel).settled(reference(Residual, PLAIN), updates=50, gpus=0)
    assert (found.kernel, found.clients) == (kernel, 1)
    said = ["clients are trained one at a time: the model is no stack of common layers"]
    assert caplog.messages == (said if kernel == "vectorised" else [])


@pytest.mark.parametrize("kernel", ["auto", "vectorised"])
def test_hosts_choose_nothing_that_bits_depend_on(kernel) -> None:
    """One update for each host is a plan of many lanes: a lone one has other bits."""
    for updates in (1, 8):
        plans = {
            AskedPlan(kernel=kernel).settled(
                reference(linear, PLAIN), updates=updates, gpus=0, hosts=hosts
            )
            for hosts in (1, updates)
        }
        assert [plan.clients for plan in plans] == [max(2, updates)]


def test_float32_convolutions_of_a_gpu_are_exact(monkeypatch) -> None:
    devices: list[torch.device] = []

    def noted(device):
        devices.append(device)
        return nullcontext()

    monkeypatch.setattr(mapped, "_exact_convolutions", noted)
    training = reference(Residual, PLAIN)
    planned(training).train(training.model.get(), [0], 0)
    assert set(devices) == {torch.device("cpu")}
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic)
    with _exact_convolutions(torch.device("cuda")):
        assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic) == (True, False, True)
    assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic) == before


def test_what_the_function_itself_raises_is_raised(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    def broken(value: torch.Tensor) -> torch.Tensor:
        raise ValueError("the function's own error")

    with pytest.raises(ValueError, match="own error"):
        Compiled(broken)(torch.ones(1))
    assert not caplog.messages
