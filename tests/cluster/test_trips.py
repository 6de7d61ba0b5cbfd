"""What a trip sends to hosts and what it does without one, with hosts in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from codex_ray.assembly import Assembled, assemble
from codex_ray.cluster import transport as transport_file
from codex_ray.cluster.coordinator import asked_again
from codex_ray.cluster.hosts import CarrierServer
from codex_ray.cluster.inherited import INLINE, INLINE_SWITCH, inline_bytes
from codex_ray.cluster.transport import RayTransport
from codex_ray.config import experiment_from
from codex_ray.errors import HostLost
from codex_ray.federation.run import Run
from codex_ray.federation.transport import LocalTransport
from codex_ray.records.result import parameters_sha256
from codex_ray.types import ClientId


class Forgetting:
    def save(self, state: object) -> None:
        pass


class Near:
    """Ray as far as a trip knows it: calls are made when they are asked for, one after another."""

    def __init__(self) -> None:
        self.put_in: list[int] = []
        """The sizes of what was put into the object store."""
        self.passed: list[int] = []
        """The bytes that each call brought along by value."""

    def put(self, piece: Any) -> Any:
        self.put_in.append(piece.nbytes)
        return SimpleNamespace(value=piece)

    def wait(self, refs: Sequence[Any], *, timeout: float) -> tuple[list[Any], list[Any]]:
        return list(refs[:1]), list(refs[1:])

    def get(self, ref: Callable[[], Any], *, timeout: float) -> Any:
        return ref()


class NearActor:
    """The handle of a host; it is lost at the calls with these numbers, which count from 1."""

    def __init__(self, near: Near, assembled: Assembled, *, lost_at: Sequence[int] = ()) -> None:
        self._near, self._assembled, self._lost_at = near, assembled, lost_at
        self.calls = 0
        self.anew()

    def anew(self) -> None:
        self.server = CarrierServer(self._assembled.host)

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Callable[[], Any]:
            if name == "ready":
                return lambda: self.server.ready(*args)
            sizes = [len(it) for it in args if isinstance(it, bytes | np.ndarray)]
            self._near.passed.append(sum(sizes))
            given = [getattr(it, "value", it) for it in args]
            return lambda: self._made(name, given)

        return SimpleNamespace(remote=remote)

    def _made(self, name: str, given: list[Any]) -> Any:
        self.calls += 1
        if self.calls in self._lost_at:
            self.anew()
            raise ActorDiedError
        return getattr(self.server, name)(*given)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Near:
    ray = Near()
    monkeypatch.setattr(transport_file, "ray", ray)
    monkeypatch.setattr("codex_ray.cluster.roll_call.RollCall.wait", _back)
    monkeypatch.setattr("codex_ray.cluster.roll_call.RollCall.look", lambda self: [])
    return ray


def _back(self: Any, *, at_least: int, deadline: float) -> list[int]:
    """Every host is there as soon as it is waited for."""
    for entry in self._entries:
        entry.actor.ready.remote(entry.ticket)()
        entry.away = False
    return []


def far(near: Near, assembled: Assembled, *, lost_at: Sequence[int] = ()) -> RayTransport:
    actors = [NearActor(near, assembled, lost_at=at) for at in (lost_at, ())]
    return RayTransport(
        actors,
        population=assembled.dataset.population,
        deadline=60,
        asked_again=asked_again(assembled.experiment),
    )


def run(assembled: Assembled, transport: Any) -> tuple[str, list[Any]]:
    """The model's hash, and what is told of each round but for clocks and attempts."""
    run = Run(
        round=assembled.round(transport),
        rounds=assembled.experiment.rounds,
        evaluate=assembled.evaluate,
        evaluate_every=100,
        journal=Forgetting(),
        replayable=True,
        debug=assembled.experiment.debug,
    )
    told = list(run.results(assembled.first_state()))
    figures = [(it.survivors, it.dropped, it.metrics, it.debug) for _, it in told]
    return parameters_sha256(told[-1][0].params), figures


def ideal(devices: dict[str, Any], **changes: Any) -> Assembled:
    """A run whose sum is taken on trust, and which claims nothing: an epsilon takes seconds."""
    federation = {"sampler": {"kind": "poisson", "rate": 0.5}, "protocol": {"kind": "ideal"}}
    federation |= changes.pop("federation", {})
    return assemble(experiment_from(devices | {"federation": federation} | changes))


@pytest.mark.parametrize("kind", ["ideal", "clear"])
@pytest.mark.parametrize("after_keys", [0.0, 0.4])
def test_parameters_go_through_the_object_store_whoever_drops_out(
    devices, near, kind, after_keys, monkeypatch
) -> None:
    """Who falls silent before the summand hears of less: that is a second frame, and no third."""
    monkeypatch.setattr(transport_file, "inline_bytes", lambda: 1000)
    changes = {"protocol": {"kind": kind}, "dropouts": {"after_keys": after_keys}}
    assembled = ideal(devices, federation=changes, rounds=2)
    quiet = run(assembled, LocalTransport(assembled.host()))
    assert run(assembled, far(near, assembled)) == quiet
    size = 4 * len(assembled.initial)
    assert size > 1000
    frames = 2 if after_keys else 1
    assert len(near.put_in) == 2 * frames and all(abs(it - size) < 200 for it in near.put_in)
    assert len(near.passed) > 4 and max(near.passed) == 0, "no call carries them itself"


def test_what_is_no_number_of_bytes_is_not_taken_for_one(monkeypatch) -> None:
    for said, bytes_ in (("5000", 5000), ("1e6", INLINE), ("", INLINE)):
        monkeypatch.setenv(INLINE_SWITCH, said)
        assert inline_bytes() == bytes_


def test_what_is_small_or_each_clients_own_is_passed_by_value(near) -> None:
    big = [bytes(INLINE) + bytes([it]) for it in range(3)]
    assert not transport_file._shared(dict(enumerate(big)))
    assert not transport_file._shared({0: b"small", 1: b"small, too"})
    assert sorted(transport_file._shared({0: big[0], 1: big[1], 2: big[0]})) == sorted(
        map(id, big[:2])
    )


@pytest.mark.parametrize("debug", [False, True])
def test_a_host_that_is_lost_after_a_chunk_changes_no_figure(devices, near, debug) -> None:
    """Its clients' summands are there; but only it can tell their figures to debug by."""
    assembled = ideal(devices, rounds=1, debug=debug)
    quiet = run(assembled, LocalTransport(assembled.host()))
    assert bool(quiet[1][0][3]) == debug
    transport = far(near, assembled, lost_at=[2])
    assert run(assembled, transport) == quiet


def test_a_trip_with_figures_to_come_starts_over(devices, near) -> None:
    assembled = ideal(devices, rounds=1, debug=True)
    transport = far(near, assembled, lost_at=[2])
    state = assembled.first_state()
    one = assembled.round(transport)
    with pytest.raises(HostLost, match="its clients are still to be asked"):
        one.run(state, cohort=one.sample(state), attempt=0)


@pytest.mark.parametrize(
    ("kind", "debug", "expected"),
    [
        ("ideal", False, False),
        ("clear", False, False),
        ("ideal", True, True),
        ("clear", True, True),
        ("secagg_plus", False, True),
    ],
)
def test_who_is_asked_again(devices, kind, debug, expected) -> None:
    federation = devices["federation"] | {"protocol": {"kind": kind}}
    experiment = experiment_from(devices | {"federation": federation, "debug": debug})
    assert asked_again(experiment) is expected


def test_only_the_clients_of_the_attempt_under_way_are_kept(devices, near) -> None:
    """Where they are, and who falls silent: not of everybody who was ever asked."""
    assembled = ideal(devices, federation={"dropouts": {"after_shares": 0.2}}, rounds=4)
    transport = far(near, assembled)
    one = assembled.round(transport)
    state, met = assembled.first_state(), set[ClientId]()
    for _ in range(4):
        cohort = one.sample(state)
        state, _ = one.run(state, cohort=cohort, attempt=0)
        met |= set(cohort)
        assert set(transport.places) <= set(cohort)
        assert set(one.transport._silent) == set(cohort)
    assert len(met) > len(cohort) + 5
