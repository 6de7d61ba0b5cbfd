"""Encodings, weights and metrics through whole rounds: the same model, and nothing in the clear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from codex_ray.assembly import Assembled, assemble
from codex_ray.config import experiment_from
from codex_ray.data.dataset import Records
from codex_ray.errors import ConfigError
from codex_ray.federation.client import Host
from codex_ray.federation.round import RoundTrace
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.trainers import LocalTraining
from codex_ray.privacy.passengers import Told
from codex_ray.types import ClientId
from codex_ray.wire import Frame

FLAT = {"bits": 16, "rounding": "stochastic", "rotate": True}
LOSS = {"low": 0, "high": 100, "resolution": 1e-12}


class Listening(LocalTransport):
    """A transport that keeps every byte in both directions."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.heard: list[bytes] = []

    def exchange(self, outbox: Mapping[ClientId, Frame]) -> dict[ClientId, bytes]:
        inbox = super().exchange(outbox)
        self.heard += [bytes(frame) for frame in (*outbox.values(), *inbox.values())]
        return inbox


def training(assembled: Assembled) -> LocalTraining:
    return LocalTraining(
        assembled.experiment.trainer,
        assembled.model,
        assembled.dataset,
        assembled.randomness.secret,
    )


def one_round(config: dict[str, Any]) -> tuple[Assembled, torch.Tensor, RoundTrace, bytes]:
    """The parameters after a round, what the server noted, and all that was said on the way."""
    assembled = assemble(experiment_from(config))
    transport = Listening(assembled.host(fold=False))  # every client's own frame
    one, state = assembled.round(transport), assembled.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=0)
    assert trace.aborted is None
    return assembled, after.params, trace, b"".join(transport.heard)


@pytest.mark.parametrize("kind", ["clear", "ideal", "secagg_plus"])
def test_sixteen_bits_give_the_model_of_thirty_two_within_the_stated_error(devices, kind) -> None:
    """Half the bytes a word, the same noise, and a difference that the codec had announced."""
    federation = devices["federation"]
    federation["dropouts"], federation["protocol"] = {}, {"kind": "ideal"}
    plain, reference, wide, _ = one_round(devices)
    federation["mechanism"]["encoding"], federation["protocol"] = FLAT, {"kind": kind}
    assembled, params, narrow, _ = one_round(devices)
    codec, cohort = assembled.codec, len(narrow.members)
    assert narrow.members == wide.members and cohort > 10
    expected = assembled.experiment.federation.sampler.expected(40)
    rounding = codec.rounding_norm * math.sqrt(cohort)
    clipping = cohort * (plain.codec.allowed_norm - codec.allowed_norm + codec.cut_norm)
    difference = float((params - reference).norm()) * expected
    assert 0 < difference <= 1.2 * rounding + clipping
    assert difference < 0.05 * cohort * codec.clip_norm
    if kind == "ideal":
        saved = max(wide.bytes_up.values()) - max(narrow.bytes_up.values())
        assert saved == 4 * plain.codec.length - 2 * codec.length > 0


def test_every_protocol_gives_the_same_bits(devices) -> None:
    devices["federation"]["dropouts"] = {}
    devices["federation"]["mechanism"]["encoding"] = {**FLAT, "bits": 20}
    found = []
    for kind in ("clear", "ideal", "secagg_plus"):
        devices["federation"]["protocol"] = {"kind": kind}
        found.append(one_round(devices)[1])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def weighted(silos: dict[str, Any], *, kind: str = "secagg_plus") -> dict[str, Any]:
    silos["trainer"] = {"kind": "sgd", "learning_rate": 0.1}
    silos["budget"] = {}
    silos["federation"] = {
        "protocol": {"kind": kind},
        "mechanism": {
            "kind": "none",
            "bound": 2.0,
            "weights": {"by": "records", "largest": 2**31},
            "metrics": {"train_loss": LOSS},
        },
    }
    return silos


@pytest.mark.parametrize("bits", [16, 32])
def test_a_round_gives_the_mean_over_records_and_the_loss_over_clients(silos, bits) -> None:
    config = weighted(silos)
    config["federation"]["mechanism"]["weights"]["largest"] = 40
    config["federation"]["mechanism"]["encoding"] = {"bits": bits, "rounding": "stochastic"}
    assembled, params, trace, _ = one_round(config)
    everyone = range(assembled.dataset.population)
    updates = training(assembled).train(assembled.initial, everyone, 0).double()
    told = training(assembled).tell(assembled.initial, everyone, {"records", "train_loss"})
    weights = torch.tensor([t.records for t in told]).double()
    assert len(set(weights.tolist())) > 3 and weights.max() <= 40
    mean = (weights @ updates) / weights.sum()
    step = assembled.codec.grid.step * len(told) * 40 / float(weights.sum())
    found = params.double() - assembled.initial.double()
    assert float((found - mean).abs().max()) <= step + 1e-6
    assert float((updates.mean(dim=0) - mean).abs().max()) > 1e-3, "weights must matter here"
    losses = [t.train_loss for t in told]
    assert trace.metrics["train_loss"] == pytest.approx(np.mean(losses), abs=1e-9)


def needles(assembled: Assembled) -> dict[str, list[bytes]]:
    """What each client told, in the forms in which it could be written somewhere."""
    local, everyone = training(assembled), range(assembled.dataset.population)
    updates = local.train(assembled.initial, everyone, 0)
    told = local.tell(assembled.initial, everyone, {"records", "train_loss"})
    mechanism, codec = assembled.experiment.federation.mechanism, assembled.codec
    found: dict[str, list[bytes]] = {"words": [], "double": [], "float": [], "steps": []}
    for update, one in zip(updates, told, strict=True):
        summand = mechanism.encode(update, codec, told=one)
        # Two digits of the weight, two of the loss, and that there was one.
        assert codec.length - codec.width == 5
        found["words"].append(summand[codec.width :].tobytes())
        found["double"].append(np.float64(one.train_loss).tobytes())
        found["float"].append(np.float32(one.train_loss).tobytes())
        found["steps"].append(
            np.int64(mechanism.metrics.train_loss.step_of(one.train_loss)).tobytes()
        )
    return found


@pytest.mark.parametrize("kind", ["secagg", "secagg_plus"])
def test_neither_weight_nor_metric_is_in_any_frame(silos, kind) -> None:
    assembled, _, _, said = one_round(weighted(silos, kind=kind))
    for form, secrets in needles(assembled).items():
        assert not any(secret in said for secret in secrets), form


def test_where_nothing_is_masked_the_same_search_finds_them(silos) -> None:
    assembled, _, _, said = one_round(weighted(silos, kind="clear"))
    assert all(words in said for words in needles(assembled)["words"])


class Nothing:
    """Clients without a record."""

    population = 2

    def client(self, client: ClientId) -> Records:
        return Records(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


def test_without_records_a_client_weighs_nothing_and_has_no_loss(silos) -> None:
    local = training(assemble(experiment_from(weighted(silos))))
    empty = replace(local, dataset=Nothing())
    params = torch.zeros(local.model.dimension)
    assert empty.tell(params, [0, 1], {"records", "train_loss"}) == [Told(0, None)] * 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"weights": {"by": "records", "largest": 50}}, "mechanism.weights sums exact figures"),
        ({"metrics": {"train_loss": LOSS}}, "mechanism.metrics sums exact figures"),
    ],
)
def test_exact_figures_of_records_are_refused_under_a_record_level_claim(
    silos, changes, field
) -> None:
    silos["federation"]["mechanism"] = {"kind": "none", **changes}
    with pytest.raises(ConfigError, match=f"{field} .*trainer.kind dp_sgd does not cover"):
        assemble(experiment_from(silos))


@pytest.mark.parametrize("field", ["weights", "metrics"])
def test_a_client_level_claim_offers_neither(devices, field) -> None:
    devices["federation"]["mechanism"][field] = {}
    with pytest.raises(ConfigError, match=f"federation.mechanism.{field}: unknown key"):
        experiment_from(devices)


def test_an_encoding_that_cannot_carry_the_cohort_is_refused_before_anything_runs(devices) -> None:
    devices["federation"]["mechanism"]["encoding"] = {"bits": 16}
    devices["data"]["clients"] = 4000
    with pytest.raises(ConfigError, match=r"set encoding.rotate: true"):
        assemble(experiment_from(devices))
    devices["federation"]["mechanism"]["encoding"] = {"bits": 15}
    with pytest.raises(ConfigError, match=r"encoding.bits: 15 cannot be used"):
        experiment_from(devices)
