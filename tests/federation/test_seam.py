"""What passes over the seam: everything the coordinator gets, and what can be had from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import stats

from codex_ray.assembly import Assembled, assemble
from codex_ray.config import experiment_from
from codex_ray.errors import HostLost
from codex_ray.federation.faults import Dropouts
from codex_ray.federation.messages import DebugRequest, TrainTask
from codex_ray.federation.run import Run
from codex_ray.federation.transport import Frames, LocalTransport, Transport
from codex_ray.randomness import Randomness
from codex_ray.secagg import prg
from codex_ray.secagg.messages import MaskedInput, SummandRequest
from codex_ray.types import ClientId, Stage
from codex_ray.wire import Frame, kind_of, read_frame


@dataclass
class Recording:
    """A transport that writes down every byte in both directions."""

    inner: Transport
    up: list[tuple[ClientId, bytes]] = field(default_factory=list)
    down: list[tuple[ClientId, bytes]] = field(default_factory=list)
    lost: frozenset[ClientId] = frozenset()
    width: int = 1

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        return self.inner.work(tasks)

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        self.down += [(c, bytes(f)) for c, f in outbox.items()]
        inbox = self.inner.exchange(outbox)
        self.up += inbox.items()
        return inbox

    def recover(self) -> None:
        self.inner.recover()

    def close(self) -> None:
        self.inner.close()


class Forgetting:
    """A journal that keeps nothing."""

    def save(self, state: object) -> None:
        pass


def one_round(config: dict[str, Any]) -> tuple[Assembled, Recording, dict[ClientId, np.ndarray]]:
    """A recorded round, and the summands that the clients really had."""
    assembled = assemble(experiment_from(config))
    recording = Recording(LocalTransport(assembled.host(fold=False)))
    one, state = assembled.round(recording), assembled.first_state()
    one.run(state, cohort=one.sample(state), attempt=0)
    streams = assembled.randomness.secret
    from codex_ray.learning.trainers import LocalTraining

    training = LocalTraining(
        assembled.experiment.trainer, assembled.model, assembled.dataset, streams
    )
    mechanism = assembled.experiment.federation.mechanism
    everyone = range(assembled.dataset.population)
    updates = training.train(assembled.initial, everyone, 0)
    summands = {
        c: mechanism.encode(u, assembled.codec) for c, u in zip(everyone, updates, strict=True)
    }
    return assembled, recording, summands


@pytest.mark.parametrize("kind", ["secagg", "secagg_plus"])
def test_no_summand_can_be_read_from_what_the_coordinator_gets(silos, kind) -> None:
    silos["federation"]["protocol"]["kind"] = kind
    _, recording, summands = one_round(silos)
    everything = b"".join(frame for _, frame in recording.up)
    masked = {
        c: MaskedInput.from_frame(f).words
        for c, f in recording.up
        if issubclass(kind_of(f), MaskedInput)
    }
    assert len(masked) >= 4
    for client, words in masked.items():
        assert summands[client].tobytes() not in everything
        assert not np.any(words == summands[client])


def test_with_the_masks_switched_off_every_summand_can(silos, monkeypatch) -> None:
    """The same reading, on a build whose masks add nothing: the test above can fail."""
    import codex_ray.secagg.client as client_module

    assert client_module.apply_masks is prg.apply_masks
    monkeypatch.setattr(client_module, "apply_masks", lambda words, masks: None)
    monkeypatch.setattr("codex_ray.secagg.unmask.apply_masks", lambda words, masks: None)
    _, recording, summands = one_round(silos)
    everything = b"".join(frame for _, frame in recording.up)
    sent = [c for c, f in recording.up if issubclass(kind_of(f), MaskedInput)]
    assert sent and all(summands[client].tobytes() in everything for client in sent)


def test_masked_inputs_are_uniform(silos) -> None:
    """Over rounds of fresh keys each byte of the masked inputs passes a chi-square test."""
    silos["federation"]["dropouts"] = {}
    silos["model"] = {"kind": "mlp", "hidden": [20]}
    words = []
    for _ in range(12):
        _, recording, _ = one_round(silos)
        words += [
            MaskedInput.from_frame(f).words
            for _, f in recording.up
            if issubclass(kind_of(f), MaskedInput)
        ]
    counts = np.bincount(np.frombuffer(np.concatenate(words).tobytes(), np.uint8), minlength=256)
    assert counts.sum() > 25_000
    assert stats.chisquare(counts).pvalue > 1e-4


def test_bytes_are_counted_as_they_were_sent(silos) -> None:
    assembled = assemble(experiment_from(silos))
    recording = Recording(LocalTransport(assembled.host(fold=False)))
    run = Run(
        round=assembled.round(recording),
        rounds=2,
        evaluate=assembled.evaluate,
        evaluate_every=1,
        journal=Forgetting(),
        replayable=True,
    )
    for state, _ in run.results(assembled.first_state()):  # noqa: B007  # the last one counts
        pass
    sent: dict[ClientId, int] = {}
    for client, frame in recording.up:
        sent[client] = sent.get(client, 0) + len(frame)
    assert state.totals.bytes_up == sent


def test_a_host_cannot_be_downgraded_to_a_plain_sum(silos) -> None:
    """A client that refuses says nothing, and to the server it has dropped out."""
    assembled = assemble(experiment_from(silos))
    host = assembled.host()
    task = TrainTask(b"r" * 16, 0, 0, assembled.initial.numpy()).to_frame()
    assert host.handle({0: task, 1: task}).keys() == {0, 1}
    assert host.handle({0: SummandRequest().to_frame()}) == {}
    silos["federation"]["protocol"]["kind"] = "ideal"
    open_host = assemble(experiment_from(silos)).host()
    open_host.handle({0: task})
    assert open_host.handle({0: SummandRequest().to_frame()}).keys() == {0}


def test_a_host_trains_once_for_each_attempt(silos) -> None:
    """Two summands of one attempt, over two models, would show the update by subtraction."""
    assembled = assemble(experiment_from(silos))
    host = assembled.host()
    params = assembled.initial.numpy()

    def train(round_: int, attempt: int) -> set[int]:
        return set(host.handle({0: TrainTask(b"r" * 16, round_, attempt, params).to_frame()}))

    assert train(1, 0) == {0}
    assert train(1, 0) == train(0, 5) == set()
    assert train(1, 1) == train(2, 0) == {0}


def test_a_host_that_did_not_train_a_client_is_a_lost_host(silos) -> None:
    """It has taken the place of one that died: an infrastructure fault, not a dropout."""
    assembled = assemble(experiment_from(silos))
    host = assembled.host()
    with pytest.raises(HostLost, match="client 0 was not trained here"):
        host.handle({0: SummandRequest().to_frame()})


def test_a_host_gives_no_debug_figures_by_default(silos) -> None:
    assembled = assemble(experiment_from(silos))
    host = assembled.host()
    host.handle({0: TrainTask(b"r" * 16, 0, 0, assembled.initial.numpy()).to_frame()})
    assert host.handle({0: DebugRequest().to_frame()}) == {}


@dataclass
class Harming:
    """A transport on which the replies of client 2 at one stage are harmed."""

    inner: Transport
    stage: Stage
    harm: Callable[[bytes], bytes]
    lost: frozenset[ClientId] = frozenset()
    width: int = 1

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        return self.inner.work(tasks)

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        inbox = self.inner.exchange(outbox)
        if 2 in inbox and kind_of(outbox[2]).stage is self.stage:
            inbox[2] = self.harm(inbox[2])
        return inbox

    def recover(self) -> None:
        self.inner.recover()

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("stage", [Stage.ADVERTISE_KEYS, Stage.MASKED_INPUT, Stage.UNMASK])
@pytest.mark.parametrize(
    "harm",
    [lambda f: f[:-3], lambda f: b"", lambda f: f + b"\0", lambda f: b"\xff" * len(f)],
    ids=["cut", "empty", "long", "garbage"],
)
def test_a_frame_that_cannot_be_read_is_a_dropout_and_ends_nothing(silos, stage, harm) -> None:
    silos["federation"]["dropouts"] = {}
    assembled = assemble(experiment_from(silos))
    harming = Harming(LocalTransport(assembled.host()), stage, harm)
    one, state = assembled.round(harming), assembled.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=0)
    assert trace.aborted is None and trace.silent == {2: stage}
    assert (2 in trace.members) == (stage is Stage.UNMASK)
    assert after.round == 1


def test_a_flipped_bit_in_a_sealed_share_ends_no_run(silos) -> None:
    """Whoever opens it refuses and has dropped out; if too many do, the round has no sum."""
    silos["federation"]["dropouts"] = {}
    assembled = assemble(experiment_from(silos))
    harming = Harming(
        LocalTransport(assembled.host()),
        Stage.SHARE_KEYS,
        lambda frame: frame[:20] + bytes([frame[20] ^ 1]) + frame[21:],
    )
    one, state = assembled.round(harming), assembled.first_state()
    after, trace = one.run(state, cohort=one.sample(state), attempt=0)
    assert after.round == 1 and (trace.aborted is not None or trace.silent)


class Dying:
    """A transport whose hosts die at the first message of a stage, as often as it is told."""

    def __init__(self, make: Any, stage: Stage, times: int) -> None:
        self._make, self._stage, self._left = make, stage, times
        self._inner = LocalTransport(make())
        self.lost: frozenset[ClientId] = frozenset()
        self.width = 1
        self.recovered = 0

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        return self._inner.work(tasks)

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        if self._left and kind_of(next(iter(outbox.values()))).stage is self._stage:
            self._left -= 1
            raise HostLost("killed by the test")
        return self._inner.exchange(outbox)

    def recover(self) -> None:
        self.recovered += 1
        self._inner = LocalTransport(self._make())  # everything it held is gone

    def close(self) -> None:
        pass


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.SHARE_KEYS, Stage.MASKED_INPUT])
def test_a_lost_host_is_retried_and_never_counted_as_a_dropout(silos, stage) -> None:
    silos["federation"]["dropouts"] = {}
    states = []
    for times in (0, 2):
        assembled = assemble(experiment_from(silos))
        dying = Dying(assembled.host, stage, times)
        run = Run(
            round=assembled.round(dying),
            rounds=2,
            evaluate=assembled.evaluate,
            evaluate_every=1,
            journal=Forgetting(),
            replayable=True,
        )
        results = list(run.results(assembled.first_state()))
        assert dying.recovered == times
        assert results[0][1].attempts == times + 1
        assert results[0][1].dropped == {} and results[-1][0].totals.dropped == 0
        states.append(results[-1][0])
    assert states[0].params.equal(states[1].params)
    assert states[0].ledgers == states[1].ledgers


def test_a_host_that_is_lost_every_time_ends_the_run(silos) -> None:
    assembled = assemble(experiment_from(silos))
    run = Run(
        round=assembled.round(Dying(assembled.host, Stage.TRAIN, 99)),
        rounds=2,
        evaluate=assembled.evaluate,
        evaluate_every=1,
        journal=Forgetting(),
        replayable=True,
        attempts=3,
    )
    with pytest.raises(HostLost):
        list(run.results(assembled.first_state()))


def test_dropouts_come_at_the_rate_and_stage_that_was_asked_for() -> None:
    dropouts = Dropouts(before_keys=0.1, after_keys=0.1, after_shares=0.1, after_masked_input=0.1)
    public = Randomness.of(3).public
    drawn = [dropouts.silent_from(c, r, public) for c in range(100) for r in range(40)]
    left = 1.0
    for stage in (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.UNMASK):
        assert drawn.count(stage) / len(drawn) == pytest.approx(0.1 * left, abs=0.025)
        left *= 0.9
    assert Dropouts().any is False and Dropouts().silent_from(1, 1, public) is None


class Keeping:
    """A journal that keeps every state that was saved."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def save(self, state: Any) -> None:
        self.states.append(state)


@pytest.mark.parametrize("seed", [1, None])
def test_what_a_killed_attempt_has_shown_is_paid_for(silos, seed) -> None:
    """Unseeded noise cannot be replayed, so its worst case is on disk before anything is asked."""
    silos["federation"]["dropouts"] = {}
    assembled = assemble(experiment_from(silos | {"seed": seed}))
    journal = Keeping()
    run = Run(
        round=assembled.round(Dying(assembled.host, Stage.MASKED_INPUT, 1)),
        rounds=1,
        evaluate=assembled.evaluate,
        evaluate_every=1,
        journal=journal,
        replayable=seed is not None,
    )
    ((state, _),) = list(run.results(assembled.first_state()))
    paid = [sum(sum(c.values()) for c in s.ledgers[0].paid.values()) for s in journal.states]
    # Six clients: reserved, reserved again on top of the lost attempt, about to be opened, settled.
    assert paid == ([6] if seed is not None else [6, 12, 12, 12])
    assert state.round == 1


class Watching(Dying):
    """One that also keeps what went over it: (attempt, stage, frames out, frames back)."""

    def __init__(self, make: Any, stage: Stage, times: int) -> None:
        super().__init__(make, stage, times)
        self.attempts: list[int] = []
        self.trips: list[tuple[int, Stage, dict[ClientId, bytes]]] = []

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        first = next(iter(outbox.values()))
        stage = kind_of(first).stage
        if stage is Stage.TRAIN:
            task = read_frame(first)
            assert isinstance(task, TrainTask)
            self.attempts.append(task.attempt)
        inbox = super().exchange(outbox)
        self.trips.append((self.attempts[-1], stage, inbox))
        return inbox


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("stage", [stage for stage in Stage if stage <= Stage.UNMASK])
def test_two_attempts_of_one_round_show_nothing_between_them(silos, stage, seed) -> None:
    """Whatever is lost when: one attempt alone is opened, and masks of two have nothing in common.

    The same client's masked inputs of two attempts would tell its summands apart if they were
    masked alike; and if they were not, but both attempts were opened, so would the two sums. With a
    seed those would be one and the same.
    """
    silos["federation"]["dropouts"] = {}
    silos["federation"]["protocol"] = {"kind": "secagg_plus", "adversary": "malicious"}
    assembled = assemble(experiment_from(silos | {"seed": seed}))
    watching = Watching(lambda: assembled.host(fold=False), stage, 2)
    run = Run(
        round=assembled.round(watching),
        rounds=1,
        evaluate=assembled.evaluate,
        evaluate_every=1,
        journal=Forgetting(),
        replayable=seed is not None,
    )
    ((_, result),) = list(run.results(assembled.first_state()))
    if seed is None and stage is Stage.UNMASK:
        assert watching.attempts == [0] and result.aborted is not None
        return
    assert watching.attempts == [0, 1, 2] and result.attempts == 3
    opened = {attempt for attempt, at, _ in watching.trips if at is Stage.UNMASK}
    assert opened == {2}
    masked = {
        attempt: {one: MaskedInput.from_frame(frame).words for one, frame in inbox.items()}
        for attempt, at, inbox in watching.trips
        if at is Stage.MASKED_INPUT
    }
    for earlier in masked.keys() - {2}:
        for client, words in masked[2].items():
            # A difference of summands would be 0, or small; a difference of masks is neither.
            apart = (words - masked[earlier][client]).view(np.int32).astype(np.int64)
            assert np.mean(np.abs(apart) > 2**24) > 0.5


def test_a_number_that_a_killed_attempt_may_have_had_is_not_used_again(silos) -> None:
    """A process is killed in an unseeded round; the next one begins where its attempts ended."""
    silos["federation"]["dropouts"] = {}
    assembled = assemble(experiment_from(silos | {"seed": None}))

    def run(transport: Any, journal: Any, attempts: int) -> Run:
        return Run(
            round=assembled.round(transport),
            rounds=1,
            evaluate=assembled.evaluate,
            evaluate_every=1,
            journal=journal,
            replayable=False,
            attempts=attempts,
        )

    journal = Keeping()
    killed = Watching(assembled.host, Stage.SHARE_KEYS, 2)
    with pytest.raises(HostLost):
        list(run(killed, journal, 2).results(assembled.first_state()))
    later = Watching(assembled.host, Stage.SHARE_KEYS, 0)
    ((state, result),) = list(run(later, Forgetting(), 2).results(journal.states[-1]))
    assert killed.attempts == [0, 1] and later.attempts == [2]
    assert result.attempts == 3 and state.round == 1


def test_a_run_killed_between_persisting_a_round_and_telling_of_it_tells_of_it_later(silos) -> None:
    assembled = assemble(experiment_from(silos))

    def run(journal: Keeping) -> Run:
        return Run(
            round=assembled.round(LocalTransport(assembled.host())),
            rounds=2,
            evaluate=assembled.evaluate,
            evaluate_every=1,
            journal=journal,
            replayable=True,
        )

    journal = Keeping()
    told = [result for _, result in run(journal).results(assembled.first_state())]
    again = [result for _, result in run(Keeping()).results(journal.states[0])]
    assert [r.round for r in again] == [0, 1]
    assert [(r.metrics, r.epsilon) for r in again] == [(r.metrics, r.epsilon) for r in told]
