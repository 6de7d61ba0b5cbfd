"""Hosts end at about the same time, whoever is slow, and no client is left out or taken twice."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codex_ray.assembly import Assembled, assemble
from codex_ray.cluster.packing import LEAST, Costs, Pool
from codex_ray.cluster.transport import IN_FLIGHT
from codex_ray.config import experiment_from
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import LocalTransport
from codex_ray.types import ClientId, Stage
from codex_ray.wire import kind_of

CLIENTS = 400


def skewed(seed: int) -> np.ndarray:
    """Seconds of each client: a few take forty times as long as most."""
    return 0.01 * np.random.default_rng(seed).lognormal(0.0, 1.0, CLIENTS)


def play(pool: Pool, seconds: np.ndarray, *, hosts: int, tell: Callable = lambda c, s: None):
    """When the last host ends, and every chunk, on a clock of its own: refilled as they finish."""
    queues: list[list[tuple[int, ...]]] = [[] for _ in range(hosts)]
    for _ in range(IN_FLIGHT):
        for host, queue in enumerate(queues):
            queue.extend(filter(None, [pool.take(host, 0.0)]))
    done: list[tuple[int, ...]] = []
    ends = [(float(seconds[list(q[0])].sum()), host) for host, q in enumerate(queues) if q]
    heapq.heapify(ends)
    now = 0.0
    while ends:
        now, host = heapq.heappop(ends)
        chunk = queues[host].pop(0)
        done.append(chunk)
        tell(chunk, float(seconds[list(chunk)].sum()))
        pool.done(host, chunk, now)
        queues[host].extend(filter(None, [pool.take(host, now)]))
        if queues[host]:
            heapq.heappush(ends, (now + float(seconds[list(queues[host][0])].sum()), host))
    return now, done


def learnt(seconds: np.ndarray, *, rounds: int, share: float = 0.3, **known) -> Costs:
    """What is known after rounds with cohorts of a share of the clients."""
    rng, costs = np.random.default_rng(9), Costs(len(seconds), **known)
    for _ in range(rounds):
        cohort = np.flatnonzero(rng.random(len(seconds)) < share)
        play(Pool(cohort.tolist(), costs, hosts=2), seconds, hosts=2, tell=costs.learn)
    return costs


@pytest.mark.parametrize("hosts", [1, 2, 7])
@pytest.mark.parametrize("together", [1, 16])
def test_every_client_is_taken_once(hosts: int, together: int) -> None:
    cohort = list(range(0, CLIENTS, 3))
    seconds = skewed(0)
    for costs in (Costs(CLIENTS), learnt(seconds, rounds=2)):
        pool = Pool(cohort, costs, hosts=hosts, together=together)
        _, chunks = play(pool, seconds, hosts=hosts)
        assert sorted(client for chunk in chunks for client in chunk) == cohort
        assert all(chunk == tuple(sorted(chunk)) for chunk in chunks)
        assert pool.take(0, 1e9) == ()
        assert sum(len(chunk) % together != 0 for chunk in chunks) <= (hosts if costs.timed else 1)


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_skewed_cohort_is_balanced_once_it_is_known(hosts: int) -> None:
    """Against the bound that no schedule beats; by numbers of clients alone it is far off."""
    worst: dict[str, float] = {"known": 0.0, "counted": 0.0}
    for seed in range(5):
        seconds = skewed(seed)
        ideal = max(seconds.sum() / hosts, seconds.max())
        costs = learnt(seconds, rounds=12)
        known, _ = play(Pool(range(CLIENTS), costs, hosts=hosts), seconds, hosts=hosts)
        parts = np.array_split(np.argsort(seconds), hosts)  # as many each, the long ones together
        counted = max(seconds[part].sum() for part in parts)
        worst["known"] = max(worst["known"], known / ideal)
        worst["counted"] = max(worst["counted"], counted / ideal)
    assert worst["known"] < 1.05 < worst["counted"]


def test_the_number_of_records_is_a_first_guess() -> None:
    """In the very first round: the longest go first, and the end is level."""
    records = np.random.default_rng(4).integers(1, 2000, CLIENTS)
    seconds = 1e-4 * (1.0 + records)
    pool = Pool(range(CLIENTS), Costs(CLIENTS, records=records), hosts=2)
    ended, chunks = play(pool, seconds, hosts=2)
    assert ended / (seconds.sum() / 2) < 1.03
    assert records[list(chunks[0])].min() >= records[list(chunks[-1])].max()


def test_costs_are_learnt_from_chunks_alone() -> None:
    seconds = skewed(2)
    known = learnt(seconds, rounds=60).of(np.arange(CLIENTS))
    assert np.corrcoef(np.log(known), np.log(seconds))[0, 1] > 0.8
    assert known.sum() == pytest.approx(seconds.sum(), rel=0.1)


def test_a_slow_host_is_given_less() -> None:
    """A host on a busy machine pulls less often; nothing needs to know that it is slow."""
    pool, speed = Pool(range(CLIENTS), learnt(np.full(CLIENTS, 0.01), rounds=2), hosts=2), [1, 3]
    busy, got = [0.0, 0.0], [0, 0]
    while chunk := pool.take(host := int(busy[1] < busy[0]), busy[host]):
        busy[host] += 0.01 * len(chunk) * speed[host]
        got[host] += len(chunk)
        pool.done(host, chunk, busy[host])
    assert sum(got) == CLIENTS
    assert got[0] > 2.5 * got[1] and abs(busy[0] - busy[1]) < 0.2


def test_the_last_chunks_are_cut_so_that_hosts_end_together() -> None:
    """However many of a program's lanes that fills: before, one waited for a full one."""
    seconds = np.full(CLIENTS, 0.005)
    pool = Pool(range(CLIENTS), learnt(seconds, rounds=3), hosts=2, together=16)
    ended, chunks = play(pool, seconds, hosts=2)
    assert ended <= seconds.sum() / 2 + 0.01
    assert len(chunks) < 20


def test_a_program_that_is_padded_is_never_cut() -> None:
    """A GPU takes as long for some of its lanes as for all: there a cut chunk costs a whole one."""
    seconds = np.full(CLIENTS, 0.005)
    costs = learnt(seconds, rounds=3)
    for part in (16, 4):
        pool = Pool(range(CLIENTS), costs, hosts=3, together=16, part=part)
        _, chunks = play(pool, seconds, hosts=3)
        assert sum(len(chunk) % part != 0 for chunk in chunks) <= 1
        assert any(len(chunk) % 16 for chunk in chunks) == (part == 4)


def test_those_who_are_left_share_what_is_left() -> None:
    """Not as if the lost ones took their part: that went down to single clients."""
    pool = Pool(range(CLIENTS), learnt(np.full(CLIENTS, 0.01), rounds=3), hosts=8)
    pool.hosts, chunks, now = 1, [], 0.0
    while chunk := pool.take(0, now):
        chunks.append(len(chunk))
        now += 0.01 * len(chunk)
        pool.done(0, chunk, now)
    assert sum(chunks) == CLIENTS and len(chunks) < 15 and min(chunks[:-1]) > 1


def test_a_host_that_has_enough_is_given_nothing_more() -> None:
    """Others will be done with the rest before it is; once it has nothing to do it helps."""
    costs = learnt(np.full(CLIENTS, 0.01), rounds=3)
    _tell(costs, [7], 1.0, times=20)
    pool = Pool(range(40), costs, hosts=2)
    assert pool.take(0, 0.0) == (7,)
    assert pool.take(0, 0.0) == () != pool.take(1, 0.0)
    pool.done(0, (7,), 0.01)
    assert pool.take(0, 0.01) != ()


def test_a_lost_host_is_not_counted_upon() -> None:
    pool = Pool(range(CLIENTS), learnt(np.full(CLIENTS, 0.01), rounds=3), hosts=2)
    pool.take(0, 0.0)
    pool.gone(0)
    chunks = []
    while chunk := pool.take(1, 0.0):
        chunks.append(chunk)
        pool.done(1, chunk, 0.0)
    assert max(map(len, chunks)) < CLIENTS / 4


def test_chunks_are_worth_a_call_and_shrink() -> None:
    costs = learnt(np.full(CLIENTS, 0.01), rounds=3)
    chunks = []
    pool = Pool(range(CLIENTS), costs, hosts=2)
    _, done = play(pool, np.full(CLIENTS, 0.01), hosts=2)
    chunks = [len(chunk) for chunk in done]
    assert sorted(chunks)[2] * 0.01 >= LEAST * 0.9 and chunks[0] > 3 * chunks[-3]
    assert len(chunks) < 30


def test_a_small_cohort_still_has_something_for_every_host() -> None:
    costs = learnt(np.full(CLIENTS, 1e-4), rounds=3)
    pool = Pool(range(4), costs, hosts=2)
    assert [len(pool.take(host, 0.0)) for host in (0, 1, 0)] == [2, 2, 0]


def test_one_odd_measurement_moves_an_estimate_a_little() -> None:
    costs, one = Costs(3), np.array([1])
    _tell(costs, [1], 0.1, times=4)
    before = float(costs.of(one)[0])
    costs.learn([1], 100.0)
    assert before < costs.of(one)[0] < 3 * before
    assert Costs(3).of(one)[0] == 1.0 and not Costs(3).timed
    costs.learn([2], 0.0)  # a clock that did not move tells nothing
    assert np.isfinite(costs.of(np.array([2]))).all()


def _tell(costs: Costs, chunk: Sequence[int], seconds: float, *, times: int) -> None:
    for _ in range(times):
        costs.learn(chunk, seconds)


class Scattered:
    """Several hosts in this process, to which chunks go by costs that somebody made up."""

    lost: frozenset[ClientId] = frozenset()
    width = 1

    def __init__(self, assembled: Assembled, *, hosts: int, seed: int) -> None:
        self.hosts = [assembled.host() for _ in range(hosts)]
        self.draw = np.random.default_rng(seed)
        self.costs = Costs(assembled.dataset.population)
        self.place: dict[ClientId, int] = {}

    def exchange(self, outbox):
        if kind_of(next(iter(outbox.values()))).stage is Stage.TRAIN:
            return self._train(outbox)
        inbox = {}
        for host in self.draw.permutation(len(self.hosts)):
            inbox |= self._ask(host, {c: f for c, f in outbox.items() if self.place[c] == host})
        return inbox

    def _train(self, outbox):
        inbox, pool = {}, Pool(list(outbox), self.costs, hosts=len(self.hosts))
        while chunk := pool.take(host := int(self.draw.integers(len(self.hosts))), 0.0):
            self.place |= dict.fromkeys(chunk, host)
            inbox |= self._ask(host, {client: outbox[client] for client in chunk})
            self.costs.learn(chunk, float(self.draw.lognormal()))
            pool.done(host, chunk, 0.0)
        return inbox

    def _ask(self, host, frames):
        came = Parcel.read(Parcel(frames).to_bytes()).frames
        return {one: bytes(it) for one, it in self.hosts[host].handle(came).items()}

    def work(self, tasks):
        return LocalTransport(self.hosts[0]).work(tasks)

    def recover(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("protocol", ["clear", "ideal", "secagg_plus"])
def test_no_assignment_changes_a_bit(devices, protocol: str) -> None:
    devices["federation"]["protocol"] = {"kind": protocol}
    assembled = assemble(experiment_from(devices))
    ends = []
    for transport in (
        LocalTransport(assembled.host()),
        Scattered(assembled, hosts=3, seed=1),
        Scattered(assembled, hosts=5, seed=2),
    ):
        one, state, traces = assembled.round(transport), assembled.first_state(), []
        for _ in range(2):
            state, trace = one.run(state, cohort=one.sample(state), attempt=0)
            traces.append((trace.cohort, trace.members, trace.silent, trace.bytes_up))
        ends.append((state.params.numpy().tobytes(), traces))
    assert ends[0] == ends[1] == ends[2]
