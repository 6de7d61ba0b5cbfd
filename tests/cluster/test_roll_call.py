"""Lost hosts: nothing from before is done after, others do their part, others replace them."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from codex_ray.cluster.hosts import CarrierServer
from codex_ray.cluster.packing import Costs, Pool
from codex_ray.cluster.roll_call import LOSSES, REPLACED, TICKETS, RollCall
from codex_ray.cluster.transport import RayTransport
from codex_ray.cluster.trip import Trip
from codex_ray.errors import ClusterError, DataError, HostLost
from codex_ray.federation.messages import Enrolled, Trained, TrainTask
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Frames
from codex_ray.records.json_logs import HOST_LOST, HOST_REPLACED
from codex_ray.types import Stage
from codex_ray.wire import read_frame

pytestmark = pytest.mark.usefixtures("ray_local")
NEEDED = 60.0


class Echo:
    """Says of every client that it is trained, once a round."""

    def __init__(self) -> None:
        self.asked: set[tuple[int, int]] = set()

    def handle(self, frames: Frames) -> dict[int, bytes]:
        tasks = [(read_frame(frame).round, client) for client, frame in frames.items()]
        new = [one for one in tasks if one not in self.asked]
        self.asked |= set(new)
        return {client: Trained(b"").to_frame() for _, client in new}


class EchoServer(CarrierServer):
    """Its process dies when it is asked for a client for whom there is a file, which goes too,
    or a folder, which stays."""

    def __init__(self, *, fails: bool = False, deadly: str = "") -> None:
        if fails:
            raise DataError("client 3: has no file")
        super().__init__(Echo)
        self.deadly = deadly

    def handle(self, ticket: int, parcel: Any) -> Any:
        for client in Parcel.read(bytes(parcel)).frames:
            file = Path(self.deadly) / str(client)
            if self.deadly and file.exists():
                if file.is_file():
                    file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().handle(ticket, parcel)

    def trained(self) -> set[tuple[int, int]]:
        return self._carrier.asked  # type: ignore[attr-defined]


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no host can import a test
EchoActor = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0.1)(EchoServer)
MortalActor = ray.remote(max_restarts=0, num_cpus=0.1)(EchoServer)


@pytest.fixture
def start() -> Any:
    """Starts an actor that ends with the test."""
    started = []

    def starting(kind: Any = EchoActor, **options: Any) -> Any:
        started.append(kind.remote(**options))
        return started[-1]

    yield starting
    for actor in started:
        ray.kill(actor, no_restart=True)


def kill(actor: Any) -> None:
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)


def task(round: int = 0) -> bytes:
    return TrainTask(b"r" * 16, round, 0, np.zeros(4, np.float32)).to_frame()


def parcel(*clients: int) -> bytes:
    return Parcel(dict.fromkeys(clients, task())).to_bytes()


def test_what_was_asked_for_on_an_old_ticket_is_not_done() -> None:
    """A coordinator is lost and its call arrives late: its clients must not count as trained."""
    host = CarrierServer(Echo)
    host.ready(0)
    assert host.ready(TICKETS)
    with pytest.raises(HostLost, match="its ticket is old"):
        host.handle(0, parcel(1, 2))
    replies = Parcel.read(bytes(host.handle(TICKETS, parcel(1, 2)))).frames
    assert sorted(replies) == [1, 2]
    with pytest.raises(HostLost, match="was started anew"):
        CarrierServer(Echo).handle(TICKETS, parcel(1))


def test_a_new_ticket_begins_with_clients_who_were_asked_nothing() -> None:
    host = CarrierServer(Echo)
    for ticket in (0, 1, TICKETS):
        host.ready(ticket)
        assert sorted(Parcel.read(bytes(host.handle(ticket, parcel(5)))).frames) == [5]
    host.ready(TICKETS)  # the same once more: it is asked again when an answer took too long
    assert not Parcel.read(bytes(host.handle(TICKETS, parcel(5)))).frames


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of the run's own machines, as its log and its metrics call it."""
    return [record.event for record in caplog.records]  # type: ignore[attr-defined]


def test_a_host_that_is_lost_comes_back_on_another_ticket(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    roll = RollCall([start(), start()])
    assert roll.wait(at_least=2, deadline=NEEDED) in ([0, 1], [1, 0])
    kill(roll.actor(1))
    roll.lost(1, "killed")
    roll.lost(1, "killed")  # said of each call that was out
    assert roll.present == [0] and roll.away == [1] and roll.ticket(1) == 1
    assert events(caplog) == [HOST_LOST]
    roll.wait(at_least=2, deadline=NEEDED)
    ray.get(roll.actor(1).handle.remote(1, parcel(1)))
    with pytest.raises(HostLost, match="its ticket is old"):
        ray.get(roll.actor(1).handle.remote(0, parcel(1)))


def test_another_takes_the_place_of_a_host_that_keeps_failing(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    roll = RollCall([start()], another=lambda _: start())
    first = roll.actor(0)
    for _ in range(LOSSES - 1):
        roll.wait(at_least=1, deadline=NEEDED)
        roll.lost(0, "killed")
    assert roll.actor(0) is first
    roll.wait(at_least=1, deadline=NEEDED)
    roll.did(0)  # and so it has not failed again and again
    roll.lost(0, "killed")
    assert roll.actor(0) is first
    for _ in range(LOSSES - 1):
        roll.wait(at_least=1, deadline=NEEDED)
        roll.lost(0, "killed")
    assert roll.actor(0) is not first
    assert events(caplog) == [HOST_LOST] * (2 * LOSSES - 1) + [HOST_REPLACED]
    roll.wait(at_least=1, deadline=NEEDED)


def test_a_number_whose_hosts_all_fail_ends_the_run(start: Callable[..., Any]) -> None:
    roll = RollCall([start()], another=lambda _: start())
    with pytest.raises(ClusterError, match="host 0 keeps dying: no memory"):
        for _ in range(LOSSES * (REPLACED + 1)):
            roll.wait(at_least=1, deadline=NEEDED)
            roll.lost(0, "no memory")


def test_a_host_that_ray_gives_up_is_replaced(start: Callable[..., Any]) -> None:
    roll = RollCall([start(MortalActor)], another=lambda _: start())
    roll.wait(at_least=1, deadline=NEEDED)
    mortal = roll.actor(0)
    kill(mortal)
    roll.lost(0, "killed")
    roll.wait(at_least=1, deadline=NEEDED)
    assert roll.actor(0) is not mortal


def test_a_host_that_cannot_be_built_says_why(start: Callable[..., Any]) -> None:
    with pytest.raises(
        ClusterError, match=r"host 0 cannot be built: DataError: client 3: has no file"
    ):
        RollCall([start(fails=True)], another=lambda _: start()).wait(at_least=1, deadline=NEEDED)


def test_the_others_go_on_without_a_host_that_cannot_be_built_any_more(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One that comes late, or in place of another, may be on a node that lacks something."""
    tried, unbuilt = list[int](), start(fails=True)

    def another(number: int) -> Any:
        tried.append(number)
        return unbuilt  # each of them says the same

    roll = RollCall([start(), unbuilt], another=another)
    roll._entries[1].again = math.inf  # its node is not there yet
    roll.wait(at_least=1, deadline=NEEDED)
    roll._entries[1].again = 0.0
    with pytest.raises(ClusterError, match="host 1 cannot be built: DataError: client 3: has no"):
        roll.wait(at_least=2, deadline=NEEDED)
    assert tried == [1] * REPLACED and roll.present == [0] and roll.away == [1]
    assert "has no file: the run goes on without it" in caplog.messages[-1]
    assert roll.wait(at_least=1, deadline=NEEDED) == []
    ray.get(roll.actor(0).handle.remote(roll.ticket(0), parcel(1)))
    # When the last one cannot be built either, nobody is left.
    roll.lost(0, "killed")
    roll._entries[0].actor = unbuilt
    with pytest.raises(ClusterError, match="host 0 cannot be built: DataError: client 3: has no"):
        roll.wait(at_least=1, deadline=NEEDED)


@pytest.mark.slow
def test_one_who_takes_over_does_without_a_host_that_cannot_be_built(
    start: Callable[..., Any],
) -> None:
    roll = RollCall([start(fails=True), start()], term=1, another=lambda _: start())
    roll.wait(at_least=2, deadline=NEEDED)  # another was built in its place
    assert roll.present == [0, 1]


@pytest.mark.parametrize("deadly", [[39], [0, 20, 39]])
def test_whoever_was_trained_on_a_lost_host_is_trained_elsewhere(
    start: Callable[..., Any], tmp_path: Path, deadly: list[int]
) -> None:
    """A host dies over a client, with others whom it has trained: each is on a host that lives."""
    for client in deadly:
        (tmp_path / str(client)).touch()
    hosts = [start(deadly=str(tmp_path)) for _ in range(2)]
    transport = RayTransport(hosts, population=40, deadline=NEEDED)
    transport.wait()
    assert sorted(transport.exchange(dict.fromkeys(range(40), task(3)))) == list(range(40))
    assert not any(tmp_path.iterdir())
    assert transport.progress["heard"] == 40
    transport.wait()
    trained = [ray.get(host.trained.remote()) for host in transport.hosts]
    assert all((3, client) in trained[transport._place[client]] for client in range(40))


@pytest.mark.slow
def test_clients_who_take_one_host_after_the_other_along_end_the_run(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "7").mkdir()  # it stays, as if client 7 took more memory than there is
    hosts = [start(deadly=str(tmp_path)) for _ in range(2)]
    transport = RayTransport(hosts, population=9, deadline=NEEDED)
    transport.wait()
    with pytest.raises(ClusterError, match=r"4 hosts were lost over clients .*more memory"):
        transport.exchange(dict.fromkeys(range(9), task()))


def test_a_trip_goes_on_with_whoever_is_there_and_with_whoever_comes(
    start: Callable[..., Any],
) -> None:
    """One host has no place yet: the cluster has no such resource, until it is taken back."""
    nowhere = EchoActor.options(num_cpus=100).remote()
    transport = RayTransport([start(), nowhere], population=9, deadline=NEEDED)
    transport.wait(at_least=1)
    assert len(transport.exchange(dict.fromkeys(range(9), task()))) == 9
    assert transport.progress["away"] == [1]
    transport._hosts._entries[1].actor = start()  # as if a node had come
    transport._hosts._entries[1].asked = None
    transport.wait()
    assert transport.progress["away"] == []
    ray.kill(nowhere)


def test_a_run_with_no_place_for_its_hosts_says_what_the_cluster_has() -> None:
    nowhere = EchoActor.options(num_cpus=100).remote()
    transport = RayTransport([nowhere], population=9, deadline=0.5)
    with pytest.raises(ClusterError, match=r"host 0 did not start within 0\.5 s.*2 CPUs"):
        transport.wait()
    ray.kill(nowhere)


def test_a_round_does_not_begin_while_no_host_is_there(start: Callable[..., Any]) -> None:
    """All were lost when it was too late to try again: the next round waits, and asks everyone."""
    transport = RayTransport([start()], population=9, deadline=NEEDED)
    transport.wait()
    kill(transport.hosts[0])
    transport._hosts.lost(0, "killed")
    assert len(transport.exchange(dict.fromkeys(range(9), task(1)))) == 9


def test_who_is_done_is_kept_unless_the_round_still_asks_something() -> None:
    """A summand that came is not asked for twice; who has to be asked again starts over."""
    done, trained = Enrolled().to_frame(), Trained(b"").to_frame()
    for asked_again in (False, True):
        trip = Trip(Stage.TRAIN, {}, {}, [], pool=Pool([], Costs(4), hosts=1))
        trip.asked_again = asked_again
        trip.inbox = {0: done, 1: trained, 2: trained}
        trip.done = {0: [(0, 1)], 1: [(2,)]}
        if asked_again:
            with pytest.raises(HostLost, match="host 0 is gone, and its clients are still to be"):
                trip.undo(0)
        else:
            trip.undo(0)
            assert list(trip.again) == [(1,)] and trip.inbox == {0: done, 2: trained}
