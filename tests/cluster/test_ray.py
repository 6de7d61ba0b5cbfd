"""On Ray: the same model to the bit, on any number of hosts, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hospitals_prepared import run_on, three_hospitals
from ray.exceptions import RayActorError

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.bench.processes import by_role
from codex_ray.cluster import standby, strangers
from codex_ray.cluster.coordinator import Coordinator
from codex_ray.cluster.crew import Crew
from codex_ray.cluster.session import ray_rounds, ray_session
from codex_ray.cluster.transport import RayTransport
from codex_ray.cluster.underway import Asking
from codex_ray.config import experiment_from, resolved, to_yaml
from codex_ray.data.prepared_shards import PreparedShards
from codex_ray.errors import ClusterError, ConfigError, DataError
from codex_ray.federation.messages import EnrolmentList, Trained, TrainTask
from codex_ray.federation.run import Run
from codex_ray.federation.state import RoundResult
from codex_ray.federation.transport import LocalTransport
from codex_ray.records.run_directory import RunDirectory
from codex_ray.records.run_status import Watched
from codex_ray.records.underway import NAME
from codex_ray.running import begin
from codex_ray.secagg.identity import Enrolment
from codex_ray.secagg.messages import MaskedInput, PlainSummand, SummandRequest
from codex_ray.types import SessionContext, Stage
from codex_ray.wire import kind_of, read_frame

pytestmark = pytest.mark.usefixtures("ray_local")
PATHS: list[str] = []
CLIENTS = 4
SGD = {"kind": "sgd", "learning_rate": 0.1}


CREWS: list[Crew] = []


@pytest.fixture(autouse=True)
def _no_crew_is_left() -> Iterator[None]:
    yield
    while CREWS:
        CREWS.pop().close()


def crew_of(experiment: Any) -> list[Any]:
    """The experiment's hosts, until the test is over."""
    CREWS.append(Crew.start(experiment, PATHS))
    return CREWS[-1].hosts


def reaching(hosts: list[Any], *, population: int, deadline: float) -> RayTransport:
    """A transport to hosts that are all there."""
    transport = RayTransport(hosts, population=population, deadline=60)
    transport.wait()
    transport._deadline = deadline
    return transport


@pytest.fixture
def silos(silos: dict[str, Any]) -> dict[str, Any]:
    """Four clients, so that one host a client is four processes."""
    silos["data"]["clients"] = CLIENTS
    return silos


@pytest.fixture
def plain(silos: dict[str, Any]) -> dict[str, Any]:
    """The same with plain SGD, whose hosts start sooner, and nobody dropping out."""
    silos["trainer"], silos["budget"] = SGD, {}
    silos["plan"] = "reference"  # tests that begin a run by themselves have nobody to choose one
    silos["federation"]["dropouts"] = {}
    return silos


@pytest.mark.parametrize(
    ("experiment", "hosts"),
    [
        ("silos", CLIENTS),
        pytest.param("devices", 1, marks=pytest.mark.slow),
        pytest.param("devices", 2, marks=pytest.mark.slow),
        pytest.param("adaptive", 2, marks=pytest.mark.slow),
        ("inside", 2),
        pytest.param("shared", 3, marks=pytest.mark.slow),
    ],
)
def test_ray_gives_the_local_model_on_any_number_of_hosts(
    experiment: str, hosts: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = request.getfixturevalue(experiment)
    local = codex_ray.run(config, out=tmp_path / "local")
    far = codex_ray.run(config, {"cluster.hosts": hosts}, out=tmp_path / "ray")
    same = {"seconds", "directory"}
    assert far.model_dump(exclude=same) == local.model_dump(exclude=same)


@pytest.mark.parametrize(
    "test",
    [
        {"test_fraction": None, "test_client": "west"},
        pytest.param({"test_fraction": 0.25}, marks=pytest.mark.slow),
    ],
    ids=["two clients", "three clients"],
)
def test_a_driver_reads_no_prepared_record_that_its_hosts_train_on(
    test: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_on(
        three_hospitals(tmp_path / "hospitals"), federation={"protocol": {"kind": "clear"}}
    )
    config["data"] |= test
    local = codex_ray.run(config, out=tmp_path / "local")

    def refuse(_: PreparedShards, client: int) -> None:
        raise AssertionError(f"the driver reads the shard of client {client}")

    monkeypatch.setattr(PreparedShards, "client", refuse)
    far = codex_ray.run(config, {"cluster.hosts": 2}, out=tmp_path / "ray")
    assert far.model_sha256 == local.model_sha256 and far.metrics == local.metrics
    with pytest.raises(AssertionError, match="the driver reads the shard of client 0"):
        codex_ray.run(config, out=tmp_path / "again")


def test_an_interrupted_ray_run_resumes_locally_to_the_same_model(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    whole = codex_ray.run(plain, out=tmp_path / "whole")
    experiment = experiment_from(plain | {"cluster": {"hosts": 2}})
    directory = RunDirectory.create(tmp_path / "cut", config=to_yaml(experiment))
    begin(assemble(experiment), directory)
    for result in ray_rounds(experiment, directory):
        if result is not None and result.round == 1:
            break  # the driver is gone: the generator's end kills the coordinator
    resumed = codex_ray.run(None, {"cluster.hosts": 0}, resume=tmp_path / "cut")
    assert resumed.model_sha256 == whole.model_sha256


@pytest.mark.slow
def test_a_killed_coordinator_is_replaced_and_every_round_is_told_once(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    whole = codex_ray.run(plain, out=tmp_path / "whole")
    told: list[int] = []
    hosts: list[set[int]] = []

    def watch(result: RoundResult | None) -> None:
        if result is None:
            return
        told.append(result.round)
        hosts.append(set(by_role()["hosts"]))
        if result.round == 0:
            (coordinator,) = by_role()["coordinator"]
            os.kill(coordinator, signal.SIGKILL)

    killed = codex_ray.run(plain, {"cluster.hosts": 2}, out=tmp_path / "killed", watch=watch)
    assert killed.model_sha256 == whole.model_sha256 and told == [0, 1, 2]
    assert killed.privacy == whole.privacy
    assert len(hosts[0]) == 2 and hosts[0] == hosts[1]  # they are the driver's
    rounds = [json.loads(line)["round"] for line in (tmp_path / "killed/rounds.jsonl").open()]
    assert rounds == told
    logged = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").open()]
    (lost,) = [line for line in logged if line.get("event") == "coordinator_lost"]
    assert (lost["level"], lost["run"]) == ("warning", "killed") and lost["round"] >= 1
    counted = 'codex_ray_coordinators_lost_total{run="killed"} 1'
    assert counted in (tmp_path / "killed/metrics.prom").read_text()


def test_the_coordinator_that_waits_takes_over(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "AFTER", 0.0)
    whole = codex_ray.run(plain, out=tmp_path / "whole")
    working: set[int] = set()
    waiting: set[int] = set()
    last: set[int] = set()
    told: list[int] = []

    def watch(result: RoundResult | None) -> None:
        nonlocal last
        last = set(by_role()["coordinator"])
        if result is None:
            working.update(last)
            return
        told.append(result.round)
        if result.round == 0:
            while len(last) < 2:
                last = set(by_role()["coordinator"])
            waiting.update(last - working)
            (coordinator,) = working
            os.kill(coordinator, signal.SIGKILL)

    killed = codex_ray.run(plain, {"cluster.hosts": 2}, out=tmp_path / "killed", watch=watch)
    assert killed.model_sha256 == whole.model_sha256 and killed.privacy == whole.privacy
    assert len(waiting) == 1 and waiting <= last
    rounds = [json.loads(line)["round"] for line in (tmp_path / "killed/rounds.jsonl").open()]
    assert told == rounds == [0, 1, 2]


def test_a_coordinator_answers_while_a_round_runs(plain: dict[str, Any], tmp_path: Path) -> None:
    """Both hosts are frozen, so the round cannot end; who looks at the run sees how far it is."""
    experiment = experiment_from(plain | {"cluster": {"hosts": 2}})
    directory = RunDirectory.create(tmp_path / "run", config=to_yaml(experiment))
    begin(assemble(experiment), directory)
    hosts = crew_of(experiment)
    coordinator = Coordinator.remote()
    stream = coordinator.run.options(num_returns="streaming").remote(
        str(directory.path), CREWS[-1].berth.spec, CREWS[-1]
    )
    assert ray.get(next(stream)) == ""
    pids = [ray.get(host.pid.remote()) for host in hosts]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        status = {"heard": 0, "asked": 0}
        while status["heard"] == status["asked"]:  # between two trips, if it is just there
            status = ray.get(coordinator.status.remote(), timeout=60)
        assert status["hosts"] == 2 and status["away"] == [] and status["round"] < 3
        took = []
        for _ in range(100):
            began = time.perf_counter()
            ray.get(coordinator.status.remote(), timeout=60)
            took.append(time.perf_counter() - began)
        # In milliseconds; slower ones tell of what else this machine does.
        assert sorted(took)[20] < 0.05
        asking = Asking(directory.path)
        while not (directory.path / NAME).exists():
            asking.ask(coordinator)
        with directory.locked():
            told = Watched(directory.path, config=resolved(experiment)).status(now=time.time())
        assert told.underway is not None and told.underway.asked == status["asked"]
        asking.close()
        assert not (directory.path / NAME).exists()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert [json.loads(ray.get(ref))["round"] for ref in stream][-1] == 2
    ray.kill(coordinator)


def test_coordinators_that_die_without_a_round_end_the_run(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def dying(*_: object, **__: object) -> Generator[None, None, None]:
        begun.append(1)
        yield None
        raise RayActorError()

    monkeypatch.setattr("codex_ray.cluster.session._rounds_of_one", dying)
    with pytest.raises(ClusterError, match=r"4 coordinators .*codex-ray run --resume"):
        codex_ray.run(plain, {"cluster.hosts": 2}, out=tmp_path / "run")
    assert len(begun) == 4


class Killing:
    """Kills a host's process when a stage begins, once."""

    def __init__(self, inner: RayTransport, pids: list[int], stage: Stage) -> None:
        self._inner, self._pids, self._stage = inner, pids, stage
        self.killed = False

    @property
    def lost(self) -> frozenset[int]:
        return self._inner.lost

    @property
    def width(self) -> int:
        return self._inner.width

    def work(self, tasks: Any) -> list[bytes]:
        return self._inner.work(tasks)

    def exchange(self, outbox: Any) -> dict[int, bytes]:
        if not self.killed and outbox and kind_of(next(iter(outbox.values()))).stage is self._stage:
            self.killed = True
            os.kill(self._pids[0], signal.SIGKILL)
            _wait_until_gone(self._pids[0])
        return self._inner.exchange(outbox)

    def recover(self) -> None:
        self._inner.recover()

    def close(self) -> None:
        self._inner.close()


def _wait_until_gone(pid: int) -> None:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)


class Forgetting:
    def save(self, state: object) -> None:
        pass


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(Stage.TRAIN, marks=pytest.mark.slow),
        Stage.MASKED_INPUT,
        pytest.param(Stage.UNMASK, marks=pytest.mark.slow),
    ],
)
def test_a_killed_host_changes_nothing(plain: dict[str, Any], stage: Stage) -> None:
    states = []
    for killing in (False, True):
        # After the unmask request the others must be enough: three of four are, two are not.
        many = CLIENTS if stage is Stage.UNMASK else 2
        experiment = experiment_from(plain | {"cluster": {"hosts": many, "deadline": 60}})
        assembled = assemble(experiment)
        if killing:
            hosts = crew_of(experiment)
            inner = reaching(hosts, population=CLIENTS, deadline=60)
            pids = [ray.get(actor.pid.remote()) for actor in hosts]
            transport: Any = Killing(inner, pids, stage)
        else:
            transport = LocalTransport(assembled.host())
        run = Run(
            round=assembled.round(transport),
            rounds=2,
            evaluate=assembled.evaluate,
            evaluate_every=1,
            journal=Forgetting(),
            replayable=True,
        )
        results = list(run.results(assembled.first_state()))
        transport.close()
        if killing:
            assert transport.killed
            # Whoever was to be trained there is trained elsewhere. Keys that are gone make the
            # round start over; from the first unmask request on the survivors finish it instead.
            assert results[0][1].attempts == (2 if stage is Stage.MASKED_INPUT else 1)
        assert results[-1][0].totals.dropped == 0
        states.append(results[-1][0])
    assert states[0].params.equal(states[1].params)
    assert states[0].ledgers == states[1].ledgers


@pytest.mark.slow
def test_what_the_coordinator_gets_over_ray_shows_no_summand(plain: dict[str, Any]) -> None:
    """Each hospital's actor makes its own keys; the bytes that come back are masked."""
    experiment = experiment_from(plain | {"cluster": {"hosts": CLIENTS}})
    assembled = assemble(experiment)
    hosts = crew_of(experiment)
    inner = reaching(hosts, population=CLIENTS, deadline=60)
    got: list[tuple[int, bytes]] = []

    class Recording:
        lost: frozenset[int] = frozenset()
        width = inner.width
        work = staticmethod(inner.work)

        def exchange(self, outbox: Any) -> dict[int, bytes]:
            inbox = inner.exchange(outbox)
            got.extend(inbox.items())
            return inbox

        def recover(self) -> None:
            inner.recover()

        def close(self) -> None:
            inner.close()

    one, state = assembled.round(Recording()), assembled.first_state()
    one.run(state, cohort=one.sample(state), attempt=0)
    inner.close()
    from codex_ray.learning.trainers import LocalTraining

    training = LocalTraining(
        experiment.trainer, assembled.model, assembled.dataset, assembled.randomness.secret
    )
    updates = training.train(assembled.initial, range(CLIENTS), 0)
    everything = b"".join(frame for _, frame in got)
    masked = {c: f for c, f in got if issubclass(kind_of(f), MaskedInput)}
    assert len(masked) == CLIENTS
    for client in masked:
        summand = experiment.federation.mechanism.encode(updates[client], assembled.codec)
        assert summand.tobytes() not in everything
        assert not np.any(MaskedInput.from_frame(masked[client]).words == summand)


@pytest.mark.slow
def test_large_frames_go_through_the_object_store_once(devices: dict[str, Any]) -> None:
    """Those who fall silent before the summand hear of less than the others."""
    devices["federation"]["protocol"] = {"kind": "ideal"}  # no identities: replies are the same
    experiment = experiment_from(
        devices
        | {"model": {"kind": "mlp", "hidden": [600], "outputs": 10}, "cluster": {"hosts": 2}}
    )
    assembled = assemble(experiment)
    hosts = crew_of(experiment)
    far = reaching(hosts, population=40, deadline=60)
    near = LocalTransport(assembled.host())
    frame = TrainTask(b"r" * 16, 0, 0, assembled.initial.numpy()).to_frame()
    assert len(frame) > 100_000
    told = TrainTask(
        b"r" * 16, 0, 0, assembled.initial.numpy(), opening=SummandRequest().to_frame()
    ).to_frame()
    outbox = {client: told if client % 3 else frame for client in range(9)}
    inbox = far.exchange(outbox)
    assert inbox.keys() == outbox.keys()
    assert {kind_of(inbox[client]) for client in (0, 3, 6)} == {Trained}
    sums = []  # folded by one host, and by as many as there were calls
    for some in (near.exchange(outbox), inbox):
        replies = [read_frame(it) for it in some.values()]
        words = [it.words for it in replies if isinstance(it, PlainSummand)]
        sums.append(np.sum(words, axis=0, dtype=np.uint64) % 2**assembled.codec.bits)
    assert np.array_equal(*sums)
    assert far._costs.timed  # hosts have told how long it took
    far.close()


@pytest.mark.slow
def test_a_host_that_stays_silent_has_others_do_its_part(plain: dict[str, Any]) -> None:
    hosts = crew_of(experiment_from(plain | {"cluster": {"hosts": 2}}))
    transport = reaching(hosts, population=CLIENTS, deadline=60)
    task = TrainTask(b"r" * 16, 0, 0, np.zeros(4, np.float32)).to_frame()
    transport.exchange({0: task, 1: task})  # what takes long, the imports, is over now
    os.kill(ray.get(hosts[0].pid.remote()), signal.SIGSTOP)
    later = TrainTask(b"r" * 16, 1, 0, np.zeros(4, np.float32)).to_frame()
    transport._deadline = 2
    assert sorted(transport.exchange(dict.fromkeys(range(CLIENTS), later))) == [0, 1, 2, 3]
    assert transport.progress["away"] == [0]
    transport._deadline = 60
    transport.wait()  # the hung process was killed, and Ray has started another
    assert transport.progress["away"] == [] and len(transport._hosts.present) == 2


def test_hosts_that_do_not_come_back_are_not_waited_for_for_ever(plain: dict[str, Any]) -> None:
    hosts = crew_of(experiment_from(plain | {"cluster": {"hosts": 1}}))
    transport = reaching(hosts, population=CLIENTS, deadline=0.5)
    os.kill(ray.get(hosts[0].pid.remote()), signal.SIGSTOP)
    task = TrainTask(b"r" * 16, 0, 0, np.zeros(4, np.float32)).to_frame()
    with pytest.raises(ClusterError, match=r"did not start within 0\.5 s.*the cluster has 2 CPUs"):
        transport.exchange({0: task})


@pytest.mark.slow
def test_a_host_that_hangs_at_the_unmask_trip_is_done_without(plain: dict[str, Any]) -> None:
    """No retry after the first unmask request: two sums of one round, subtracted, show someone."""
    experiment = experiment_from(plain | {"cluster": {"hosts": CLIENTS}})
    assembled = assemble(experiment)
    hosts = crew_of(experiment)
    inner = reaching(hosts, population=CLIENTS, deadline=60)
    pid = ray.get(hosts[1].pid.remote())
    task = dict.fromkeys(
        range(CLIENTS), TrainTask(b"r" * 16, 7, 0, np.zeros(4, np.float32)).to_frame()
    )
    inner.exchange(task)  # what takes long, the imports, is over now

    class Hanging:
        width = inner.width
        work = staticmethod(inner.work)

        @property
        def lost(self) -> frozenset[int]:
            return inner.lost

        def exchange(self, outbox: Any) -> dict[int, bytes]:
            if kind_of(next(iter(outbox.values()))).stage is Stage.UNMASK:
                os.kill(pid, signal.SIGSTOP)
                inner._deadline = 3
            return inner.exchange(outbox)

        def recover(self) -> None:
            raise AssertionError("the round was tried again")

        def close(self) -> None:
            inner.close()

    state = assembled.first_state()
    state.round = 8
    one = assembled.round(Hanging())
    _, trace = one.run(state, cohort=one.sample(state), attempt=0)
    assert trace.aborted is None and trace.members == tuple(range(CLIENTS))
    assert trace.silent == {} and inner.lost == {1}
    os.kill(pid, signal.SIGKILL)
    inner.close()


def test_an_error_on_a_host_is_the_error_of_the_run(plain: dict[str, Any], tmp_path: Path) -> None:
    """Client 2's data turns bad only on the host: the driver still says what and where."""
    config = plain | {
        "data": {"kind": "python", "factory": "tests.cluster.test_ray:bad_on_hosts"},
        "cluster": {"hosts": 2},
    }
    with pytest.raises(DataError, match=r"client 2.*nan"):
        codex_ray.run(config, out=tmp_path / "run")


def bad_on_hosts() -> codex_ray.InMemory:
    records = []
    for client in range(CLIENTS):
        features = np.full((8, 3), 0.5, dtype=np.float32)
        if client == 2 and ray.get_runtime_context().get_actor_id() is not None:
            features[1, 1] = np.nan
        records.append((features, np.arange(8) % 2))
    test = codex_ray.Records(np.zeros((4, 3), np.float32), np.arange(4) % 2)

    class Data:
        population = CLIENTS

        def client(self, client: int) -> codex_ray.Records:
            return codex_ray.Records(records[client][0], records[client][1].astype(np.int64))

        def test(self) -> codex_ray.Records:
            return test

    return Data()  # type: ignore[return-value]  # anything with these three will do


def test_python_objects_are_not_sent_to_hosts(silos: dict[str, Any], tmp_path: Path) -> None:
    import torch

    with pytest.raises(ConfigError, match="nothing is pickled"):
        codex_ray.run(
            silos, {"cluster.hosts": 2}, model=torch.nn.Linear(3, 1), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_nothing_secret_is_in_what_ray_carries(silos: dict[str, Any]) -> None:
    """What goes to a host is the configuration, and an unseeded one holds no key."""
    from codex_ray.config import resolved

    experiment = experiment_from(silos | {"seed": None})
    text = json.dumps(resolved(experiment))
    assert experiment_from(json.loads(text)) == experiment
    for setting in ("before_keys", "after_keys", '"keys": "session"'):
        text = text.replace(setting, "")
    assert "key" not in text.lower()


@pytest.mark.slow
def test_frames_of_one_stage_stay_on_the_host_that_trained(plain: dict[str, Any]) -> None:
    experiment = experiment_from(plain | {"cluster": {"hosts": 2}})
    assembled = assemble(experiment)
    hosts = crew_of(experiment)
    transport = reaching(hosts, population=CLIENTS, deadline=60)
    task = TrainTask(b"r" * 16, 0, 0, assembled.initial.numpy()).to_frame()
    trained = transport.exchange(dict.fromkeys(range(CLIENTS), task))
    listed = {one: Trained.from_frame(frame).identity for one, frame in trained.items()}
    enrolled = dict.fromkeys(range(CLIENTS), EnrolmentList(listed).to_frame())
    assert sorted(transport.exchange(enrolled)) == list(range(CLIENTS))
    context = SessionContext(b"r" * 16, 0, 0, bytes(32), len(assembled.initial))
    first_trip = next(
        experiment.federation.protocol.session(
            tuple(range(CLIENTS)), context, enrolment=Enrolment(listed)
        )
    )
    asked = {client: message.to_frame() for client, message in first_trip.items()}
    assert sorted(transport.exchange(asked)) == list(range(CLIENTS))
    transport.close()


def test_a_ray_that_the_caller_is_in_is_looked_at_like_one_that_is_joined(
    plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This one is closed; then we have no token, and then it lets everyone in."""
    for address in ("local", "auto", ray.get_runtime_context().gcs_address):
        with ray_session(address) as overlooked:
            assert overlooked == []
    with pytest.raises(ClusterError, match="but this process has joined"):
        codex_ray.run(plain | {"cluster": {"hosts": 1, "address": "127.0.0.9:1"}}, out=tmp_path)
    with monkeypatch.context() as patch:
        patch.delenv("RAY_AUTH_TOKEN")
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(ClusterError, match="there is no token"):
            codex_ray.run(plain | {"cluster": {"hosts": 1}}, out=tmp_path / "out")
    monkeypatch.setattr(strangers, "knock", lambda *_, **__: strangers.Answer.WELCOME)
    with pytest.raises(ClusterError, match="demands no token"):
        codex_ray.run(plain | {"cluster": {"hosts": 1}}, out=tmp_path / "out")
    with ray_session("local", insecure_local=True) as overlooked:
        assert len(overlooked) == 1 and "demands no token" in overlooked[0]
