"""A round whose sum a server may know has no second sum, whoever was killed and when.

Two sums over survivors that differ by one client show, the one less the other, what that client
sent. A process that is gone may have opened its round's, so the next one leaves that round alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from codex_ray.assembly import Assembled, assemble
from codex_ray.config import experiment_from
from codex_ray.errors import HostLost
from codex_ray.federation.messages import TrainTask
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.federation.transport import Frames, LocalTransport
from codex_ray.records.checkpoint import from_bytes, to_bytes
from codex_ray.types import ClientId, Stage
from codex_ray.wire import kind_of, read_frame

OPENED_BY = {
    "secagg": Stage.UNMASK,
    "secagg_plus": Stage.UNMASK,
    "one_shot": Stage.UNMASK,
    "ideal": Stage.TRAIN,
    "clear": Stage.TRAIN,
}
"""The trip from which on the sum of a round can be known."""


class Killed(BaseException):
    """The end of the server's process."""


class Disk:
    """A journal of which a killed process leaves the bytes."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def save(self, state: ServerState) -> None:
        self.kept.append(to_bytes(state))

    @property
    def last(self) -> ServerState:
        return from_bytes(self.kept[-1], name="kept")


class Server(LocalTransport):
    """One whose process is killed in round 0, at a stage: before its trip is made, or after."""

    def __init__(self, host: Any, *, at: Stage | None = None, answered: bool = False) -> None:
        super().__init__(host)
        self._at, self._answered = at, answered
        self.raises: type[BaseException] = Killed
        self.asked: list[tuple[int, int, Stage]] = []
        """Round, attempt and stage of every trip that was made."""

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        first = next(iter(outbox.values()))
        stage = kind_of(first).stage
        if stage is Stage.TRAIN:
            task = read_frame(first)
            assert isinstance(task, TrainTask)
            self._now = task.round, task.attempt
        self.asked.append((*self._now, stage))
        dies = self._at is stage and self._now[0] == 0
        if dies and not self._answered:
            raise self.raises
        inbox = super().exchange(outbox)
        if dies:
            raise self.raises
        return inbox


def built(silos: dict[str, Any], kind: str, *, seed: int | None = None) -> Assembled:
    federation = silos["federation"] | {"protocol": {"kind": kind}, "dropouts": {}}
    return assemble(experiment_from(silos | {"federation": federation, "seed": seed}))


def run(assembled: Assembled, server: Server, disk: Disk) -> Run:
    return Run(
        round=assembled.round(server),
        rounds=2,
        evaluate=assembled.evaluate,
        evaluate_every=1,
        journal=disk,
        replayable=assembled.experiment.seed is not None,
    )


def killed(assembled: Assembled, at: Stage, *, answered: bool) -> tuple[Server, Disk]:
    server, disk = Server(assembled.host(), at=at, answered=answered), Disk()
    with pytest.raises(Killed):
        list(run(assembled, server, disk).results(assembled.first_state()))
    return server, disk


def gone_on(assembled: Assembled, disk: Disk) -> tuple[Server, list[RoundResult]]:
    server = Server(assembled.host())
    return server, [result for _, result in run(assembled, server, disk).results(disk.last)]


def paid(state: ServerState) -> int:
    return sum(sum(events.values()) for events in state.ledgers[0].paid.values())


@pytest.mark.parametrize("answered", [False, True], ids=["request just out", "all answers in"])
@pytest.mark.parametrize("kind", OPENED_BY)
def test_a_sum_that_a_killed_server_may_know_is_the_last_of_its_round(silos, kind, answered):
    first = built(silos, kind)
    server, disk = killed(first, OPENED_BY[kind], answered=answered)
    assert server.asked[-1] == (0, 0, OPENED_BY[kind])
    assert disk.last.totals.opened and disk.last.totals.unsettled == [list(range(6))]
    reserved = disk.last.ledgers
    later, results = gone_on(built(silos, kind), disk)
    assert all(round == 1 for round, _, _ in later.asked), "nobody is asked for round 0 again"
    aborted, sound = results
    assert "could show a summand" in aborted.aborted and sound.aborted is None
    assert (aborted.round, aborted.attempts, aborted.survivors) == (0, 1, 0)
    assert aborted.charged == [{"survivors": None, "clients": 6, "members": list(range(6))}]
    after = from_bytes(disk.kept[1 if kind in ("clear", "ideal") else 2], name="kept")
    assert after.round == 1 and after.ledgers == reserved, "what was reserved stands"
    assert after.params.equal(first.initial)
    assert (after.totals.aborted, after.totals.opened, after.totals.unsettled) == (1, False, [])
    assert paid(disk.last) == 12, "two rounds, of six clients each"


@pytest.mark.parametrize("kind", ["secagg_plus", "one_shot"])
def test_masked_inputs_alone_show_nothing_and_the_round_is_begun_again(silos, kind) -> None:
    _, disk = killed(built(silos, kind), Stage.MASKED_INPUT, answered=True)
    assert not disk.last.totals.opened
    later, results = gone_on(built(silos, kind), disk)
    assert later.asked[0] == (0, 1, Stage.TRAIN) and results[0].aborted is None
    assert [len(it.charged) for it in results] == [2, 1] and paid(disk.last) == 18


@pytest.mark.parametrize("kind", OPENED_BY)
def test_it_is_on_disk_before_anybody_is_asked_and_costs_a_save_at_most(silos, kind) -> None:
    assembled, disk = built(silos, kind), Disk()
    opened: dict[Stage, bool] = {}

    class Looking(Server):
        def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
            opened[kind_of(next(iter(outbox.values()))).stage] = disk.last.totals.opened
            return super().exchange(outbox)

    list(run(assembled, Looking(assembled.host()), disk).results(assembled.first_state()))
    assert opened == {stage: stage >= OPENED_BY[kind] for stage in opened}
    assert len(disk.kept) == 2 * (2 if OPENED_BY[kind] is Stage.TRAIN else 3)


def test_a_run_with_a_seed_draws_the_same_again(silos) -> None:
    """The same cohort, dropouts and noise: the second sum is the first."""
    disk, quiet = Disk(), Disk()
    whole = built(silos, "secagg_plus", seed=1)
    list(run(whole, Server(whole.host()), quiet).results(whole.first_state()))
    assembled = built(silos, "secagg_plus", seed=1)
    server = Server(assembled.host(), at=Stage.UNMASK, answered=True)
    disk.save(assembled.first_state())
    with pytest.raises(Killed):
        list(run(assembled, server, disk).results(disk.last))
    assert len(disk.kept) == 1, "nothing more is written than before"
    gone_on(built(silos, "secagg_plus", seed=1), disk)
    assert disk.last.params.equal(quiet.last.params) and disk.last.ledgers == quiet.last.ledgers


def test_a_host_that_is_lost_too_late_is_no_reason_for_a_second_sum(silos) -> None:
    """Transports do not tell of it then; were one to, the round would be over all the same."""
    assembled, disk = built(silos, "secagg_plus"), Disk()
    server = Server(assembled.host(), at=Stage.UNMASK, answered=True)
    server.raises = HostLost
    results = [it for _, it in run(assembled, server, disk).results(assembled.first_state())]
    assert [it.attempts for it in results] == [1, 1] and results[0].aborted is not None
    assert sum(stage is Stage.TRAIN for _, _, stage in server.asked) == 2
    assert paid(disk.last) == 12


def test_what_an_earlier_version_left_may_have_been_opened(silos) -> None:
    assembled = built(silos, "secagg_plus")
    _, disk = killed(assembled, Stage.SHARE_KEYS, answered=True)
    about = disk.last.totals.to_json()
    del about["opened"]
    assert type(disk.last.totals).from_json(about).opened
    assert not type(disk.last.totals).from_json(about | {"unsettled": []}).opened
