"""Attack 18: who was in which sum, and many sums, tell single updates (So et al. 2021).

A client's update hardly changes from round to round near the end of training. The server then has
one linear equation a round, and after as many rounds as there are clients it solves them. Secure
aggregation has nothing to say to that. With noise inside the sums each solution carries what the
ledger has counted: a client that took part in r sums is under 1/sqrt(r) of the noise of one.

Whoever is not the server needs the participation matrix first. Where cohorts are to be hidden, it
is in nothing that a run leaves behind but in its checkpoint.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.federation.federation import Federation
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.trainers import LocalTraining
from codex_ray.randomness import SeedTree, Stream

CLIENTS, COHORT, ROUNDS = 12, 8, 16
CLIP, NOISE = 0.5, 1.0
PARTS, HONEST = COHORT, 6
"""Of a cohort of eight seven must stay, one of whom may conspire: six parts make the noise."""
RARE = 1e-6
KINDS = pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])


def standing_still(monkeypatch, dimension: int) -> torch.Tensor:
    """Updates [n, d] that every client sends in every round, and the build that has them do so."""
    drawn = torch.randn(CLIENTS, dimension, generator=torch.Generator().manual_seed(4))
    updates = 0.8 * CLIP * drawn / drawn.norm(dim=1, keepdim=True)
    monkeypatch.setattr(
        LocalTraining, "train", lambda _, params, clients, round: updates[list(clients)]
    )
    return updates.double()


class Recorded:
    """A run over real secure sums, and what its server writes down of each round.

    Attributes:
        updates: what the clients have, and the server wants [n, d].
        matrix: who was in which sum [rounds, n].
        sums: what came out [rounds, d].
        paid: how often each client has paid, by its ledger.
        codec, public: how words are decoded, and the streams that everybody knows.
    """

    def __init__(self, config, monkeypatch, *, mechanism, cohorts=None) -> None:
        config["data"]["clients"] = CLIENTS
        config["model"] = {"kind": "mlp", "hidden": [40], "outputs": 10}
        config["federation"] = {
            "sampler": {"kind": "fixed", "size": COHORT},
            "protocol": {"kind": "secagg"},
            "mechanism": mechanism,
        }
        built = assemble(experiment_from(config))
        self.codec, self.public = built.codec, built.randomness.public
        self.updates = standing_still(monkeypatch, len(built.initial)).numpy()
        one, state = built.round(LocalTransport(built.host())), built.first_state()
        rows, sums = [], []
        for number in range(ROUNDS if cohorts is None else len(cohorts)):
            cohort = one.sample(state) if cohorts is None else cohorts[number]
            before = state.params.double()
            state, trace = one.run(state, cohort=cohort, attempt=0)
            assert trace.aborted is None
            rows.append([client in trace.members for client in range(CLIENTS)])
            sums.append((state.params.double() - before).numpy() * COHORT)
        self.matrix, self.sums = np.array(rows, dtype=np.float64), np.array(sums)
        self.paid = [
            sum(count for ledger in state.ledgers for _, count in ledger.entries(client))
            for client in range(CLIENTS)
        ]

    def solved(self) -> np.ndarray:
        """How far off the least-squares solution is for each client: root mean square [n]."""
        found = np.linalg.lstsq(self.matrix, self.sums)[0]
        return np.sqrt(np.mean((found - self.updates) ** 2, axis=1))

    def subtracted(self, client: int) -> np.ndarray:
        """How far off [d] the mean is of what is left of a client's sums without the others.

        Nobody could do better without a guess at the update: all the others are known.
        """
        mine = self.matrix[:, client] > 0
        others = np.delete(self.matrix, client, axis=1) @ np.delete(self.updates, client, axis=0)
        return (self.sums - others)[mine].mean(axis=0) - self.updates[client]

    def floor(self, client: int) -> float:
        """The least root mean square error that is left by the noise that the client has paid."""
        d = self.updates.shape[1]
        whole = CLIP * NOISE / math.sqrt(self.paid[client])
        return whole * math.sqrt(chi2.ppf(RARE, d) / d)


def with_noise(kind):
    return {"kind": kind, "clip_norm": CLIP, "noise_multiplier": NOISE}


def test_without_noise_the_sums_are_solved_for_every_update(inside, monkeypatch):
    """The attack succeeds, through a protocol of which nothing is broken."""
    run = Recorded(inside, monkeypatch, mechanism={"kind": "none"})
    assert np.linalg.matrix_rank(run.matrix) == CLIENTS
    sizes = np.sqrt(np.mean(run.updates**2, axis=1))
    assert np.all(run.solved() < 1e-3 * sizes)


@KINDS
def test_with_noise_no_solution_is_nearer_than_what_was_paid_for(kind, inside, monkeypatch):
    run = Recorded(inside, monkeypatch, mechanism=with_noise(kind))
    assert np.linalg.matrix_rank(run.matrix) == CLIENTS
    assert run.paid == run.matrix.sum(axis=0).tolist()
    errors, sizes = run.solved(), np.sqrt(np.mean(run.updates**2, axis=1))
    assert all(error > run.floor(client) for client, error in enumerate(errors))
    assert np.all(errors > 5 * sizes)
    # Nor is that of somebody who knows all the other updates: the floor is where it should be.
    whole = CLIP * NOISE * math.sqrt(PARTS / HONEST)
    for client in range(CLIENTS):
        error = math.sqrt(np.mean(run.subtracted(client) ** 2))
        assert run.floor(client) < error < errors[client]
        assert error == pytest.approx(whole / math.sqrt(run.paid[client]), rel=0.06)


# Two sums of the same clients but one: the shortest way.

WITH, WITHOUT, VICTIM = tuple(range(8)), tuple(range(1, 8)), 0


def two_sums(config, monkeypatch) -> tuple[float, Recorded]:
    """How far off the difference is as the update of whoever left, and the run."""
    run = Recorded(config, monkeypatch, mechanism=with_noise("skellam"), cohorts=[WITH, WITHOUT])
    assert run.paid[VICTIM] == 1
    error = run.sums[0] - run.sums[1] - run.updates[VICTIM]
    return math.sqrt(np.mean(error**2)), run


def likeness(run: Recorded) -> float:
    """The correlation of both sums as they were before the rotations of their rounds were undone.

    Those are public, and only hide it if the clients' noise is the same in both rounds.
    """
    words = [
        run.codec.rotation(run.public.stream("rotation", number)).forward(torch.from_numpy(total))
        for number, total in enumerate(run.sums)
    ]
    return float(np.corrcoef(torch.stack(words).numpy())[0, 1])


def test_two_sums_that_differ_by_a_client_are_under_the_noise_of_both(inside, monkeypatch):
    found, run = two_sums(inside, monkeypatch)
    assert found > run.floor(VICTIM)
    assert found == pytest.approx(CLIP * NOISE * math.sqrt((8 + 7) / HONEST), rel=0.06)
    assert abs(likeness(run)) < 5 / math.sqrt(run.codec.width)


@pytest.mark.parametrize("rotates", [True, False], ids=["other rotations", "one rotation"])
def test_mutation_noise_that_is_the_same_in_each_round_can_be_taken_off(
    rotates, inside, monkeypatch
):
    """As if streams did not bear the number of their round."""
    genuine = SeedTree.stream

    def of_no_round(self, name, *where):
        alike = name == "noise share" or (name == "rotation" and not rotates)
        return genuine(self, name, *(where[1:] if alike else where))

    monkeypatch.setattr(SeedTree, "stream", of_no_round)
    found, run = two_sums(inside, monkeypatch)
    assert likeness(run) > 0.5
    if not rotates:  # Then one client's part is all that is left, by a mere subtraction.
        assert found < run.floor(VICTIM)
        assert found == pytest.approx(CLIP * NOISE / math.sqrt(HONEST), rel=0.06)


# What is published: the same for any two cohorts of a size, if their clients send the same.


def left_behind(directory: Path) -> dict[str, Any]:
    """What a run leaves for its readers, but for times: by file, tag or field."""
    lines = [json.loads(line) for line in (directory / "rounds.jsonl").open()]
    for line in lines:
        del line["seconds"]
    result = json.loads((directory / "result.json").read_text())
    del result["seconds"]
    # A limit of 0 keeps all events.
    events = EventAccumulator(str(directory / "tensorboard"), {"scalars": 0, "tensors": 0}).Reload()
    shown = {
        tag: [event.value for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("seconds/")
    }
    shown |= {
        tag: [str(event.tensor_proto) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    files = ("config.yaml", "privacy.json", "privacy.md", "model.safetensors")
    kept = {name: (directory / name).read_bytes() for name in files}
    return {"rounds.jsonl": lines, "result.json": result} | kept | shown


class Shifted(Stream):
    """The draws of a stream, dealt to others: cohorts of the same sizes, with other members."""

    def __init__(self, key: bytes, by: int) -> None:
        super().__init__(key)
        self._by = by

    def uniform(self, count):
        return np.roll(super().uniform(count), self._by)


@pytest.fixture(params=["added after the sum", "brought by clients"])
def of_two_cohorts(request, devices, tmp_path, monkeypatch):
    """Runs a federation of hidden cohorts, and then again with others of the same sizes."""
    if request.param == "brought by clients":
        devices["data"]["clients"] = 200
        devices["federation"]["protocol"] = {"kind": "ideal"}
        devices["federation"]["mechanism"] = with_noise("skellam") | {"assumed_dropout": 0.5}
    devices["federation"]["dropouts"] = {}
    devices["plan"] = "reference"  # It is what is made to stand still.
    monkeypatch.setattr(
        LocalTraining,
        "train",
        lambda _, params, clients, round: torch.zeros(len(clients), len(params)),
    )
    # The report is drawn from what is compared here, and takes longer than the run.
    monkeypatch.setattr("codex_ray.api.write_report", lambda *_: None)
    genuine = SeedTree.stream

    def both() -> list[dict[str, Any]]:
        found = []
        for shift in (0, 7):

            def dealt(self, name, *where, by=shift):
                """Whose noise it is must not matter: otherwise the sums differ, as they should."""
                if name == "cohort":
                    return Shifted(self.key(name, *where), by)
                whose = name in ("rounding", "noise share")
                return genuine(self, name, *(where[:1] if whose else where))

            monkeypatch.setattr(SeedTree, "stream", dealt)
            codex_ray.run(devices | {"rounds": 1}, out=tmp_path / str(shift))
            found.append(left_behind(tmp_path / str(shift)))
        return found

    return both


def test_nothing_published_tells_who_was_in_a_hidden_cohort(of_two_cohorts):
    one, other = of_two_cohorts()
    assert one["rounds.jsonl"][0]["survivors"] > 0
    assert json.loads(one["privacy.json"])["refused"] is None
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []


def test_mutation_a_run_that_forgets_to_hide_them_tells(of_two_cohorts, monkeypatch):
    """The same comparison sees who paid, or how much each client has sent."""
    monkeypatch.setattr(Federation, "hides_cohorts", False)
    one, other = of_two_cohorts()
    assert one["result.json"] != other["result.json"]
