"""Kills on a schedule: `kill -9` at chosen trips of chosen rounds, and each of them done once.

Only `codex-ray chaos` asks for them. They are a transport around the coordinator's own, because the
trips of a round pass through there and nowhere else. Before a kill is done a marker of it is
written, so that the round is not killed again when it is replayed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import ray
from pydantic import Field, ValidationError
from ray.exceptions import RayError

from codex_ray.cluster.processes import children_of, name_of, parent_of
from codex_ray.errors import ClusterError, ConfigError, HostLost
from codex_ray.federation.faults import Trip
from codex_ray.federation.messages import TrainTask
from codex_ray.federation.transport import Frames, Passing, Transport
from codex_ray.types import ClientId, Component, Stage
from codex_ray.wire import Frame, FrameReader, kind_of

Whom = Literal["host", "node", "coordinator", "driver"]
WHOM: Final[tuple[Whom, ...]] = ("host", "node", "coordinator", "driver")
PAUSE: Final = 0.1
"""Seconds that a frozen host is left for frames to come in, before it is killed."""
PATIENCE: Final = 60.0
"""Seconds to wait for a host that is being replaced, so that it can be killed."""
TRIPS_FILE: Final = "trips.jsonl"


class Kill(Component):
    """One process, or a node's, that is killed at one trip of one round.

    Attributes:
        number: its place in the schedule, from 1.
        round: from 0.
        trip: of the round.
        whom: what is killed.
        host: which host, or whose node; None: the one that carries the fewest clients.
        after: the frames of the trip are out, and nobody has made anything of the answers; else
            none is out yet.
    """

    number: int = Field(ge=1)
    round: int = Field(ge=0)
    trip: Trip
    whom: Whom
    host: int | None = Field(default=None, ge=0)
    after: bool

    @property
    def stage(self) -> Stage:
        """Of the trip."""
        return Stage[self.trip.upper()]

    @property
    def in_words(self) -> str:
        """What is killed, such as "node of host 2"."""
        host = "smallest host" if self.host is None else f"host {self.host}"
        return {"host": host, "node": f"node of {host}"}.get(self.whom, self.whom)


class Kills(Component):
    """All kills of a run, and where it is written down which of them are done.

    Attributes:
        folder: of the markers and the log of trips.
        driver: the process to kill when it is the driver's turn.
        kills: in any order, one a trip at the most.
    """

    folder: str
    driver: int = Field(ge=0)
    kills: tuple[Kill, ...]

    @classmethod
    def read(cls, text: str) -> Self:
        """The kills that `to_text` wrote.

        Raises:
            ConfigError: it is no such text.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"kills{'.' if where else ''}{where}: {first['msg']}") from None

    def to_text(self) -> str:
        """The same as JSON."""
        return self.model_dump_json()

    def marker(self, kill: Kill) -> Path:
        """The file that says that the kill is done, or as good as."""
        return Path(self.folder) / f"kill-{kill.number:03d}.json"

    def coming(self, round: int) -> list[Kill]:
        """The kills of that round that are not done yet."""
        ours = [kill for kill in self.kills if kill.round == round]
        return [kill for kill in ours if not self.marker(kill).exists()]

    def due(self, round: int, stage: Stage) -> Kill | None:
        """The one of that trip, if there is one."""
        return next((kill for kill in self.coming(round) if kill.stage is stage), None)

    def claim(self, kill: Kill, pids: Sequence[int]) -> bool:
        """Writes the marker; False if somebody else was first, and then nothing is to be killed."""
        content = {"number": kill.number, "at": time.time(), "pids": list(pids)}
        content["coordinator"] = os.getpid()
        marker = self.marker(kill)
        written = marker.with_name(f".{marker.name}.{os.getpid()}")
        written.write_text(json.dumps(content))
        try:
            os.link(written, marker)  # all of it at once, and never twice
        except FileExistsError:
            return False
        finally:
            written.unlink()
        return True


class Staffed(Transport, Protocol):
    """A transport whose machines are actors."""

    @property
    def hosts(self) -> Sequence[Any]:
        """Their handles, in their order."""
        ...

    @property
    def places(self) -> Mapping[int, int]:
        """On which of them each client of the attempt under way is."""
        ...

    def wait(self) -> None:
        """Returns when all of them are there."""
        ...


class Killing(Passing[Staffed]):
    """A transport that kills on a schedule, and tells of every trip in a file.

    Killed before its trip, a host never hears of it. Killed after, it is frozen first (SIGSTOP):
    the frames reach its process, and no answer leaves it, whatever the machine is busy with. A
    kill at some moment of a trip that takes a millisecond would be anywhere. The coordinator and
    the driver are killed when all answers are in, and nothing has been made of them.
    """

    def __init__(self, inner: Staffed, kills: Kills) -> None:
        """Over `inner`, whose hosts are the ones to kill."""
        super().__init__(inner)
        self._kills = kills
        self._round, self._attempt = -1, 0

    @classmethod
    def read(cls, text: str, inner: Staffed) -> Killing:
        """The same by the text of the kills.

        Raises:
            ConfigError: it cannot be read.
        """
        return cls(inner, Kills.read(text))

    def exchange(self, outbox: Frames) -> dict[int, bytes]:
        """The inner transport's replies, if whoever is killed leaves them possible.

        Raises:
            HostLost: it did not.
        """
        if not outbox:
            return self._inner.exchange(outbox)
        stage = self._stage_of(next(iter(outbox.values())))
        if stage is Stage.TRAIN and self._kills.coming(self._round):
            self._inner.wait()
        kill = self._kills.due(self._round, stage)
        began, lost = time.time(), ""
        try:
            if kill is None:
                return self._inner.exchange(outbox)
            return self._killed(kill, outbox)
        except HostLost as error:
            lost = str(error)
            raise
        finally:
            self._tell(stage, began=began, lost=lost)

    def _stage_of(self, frame: Frame) -> Stage:
        """The trip that the frame is of; a task tells of its round."""
        stage = kind_of(frame).stage
        if stage is Stage.TRAIN:
            task = FrameReader().read(frame)
            assert isinstance(task, TrainTask)  # nothing else goes out then
            self._round, self._attempt = task.round, task.attempt
        return stage

    def _killed(self, kill: Kill, outbox: Frames) -> dict[int, bytes]:
        if kill.whom in ("coordinator", "driver"):
            pid = os.getpid() if kill.whom == "coordinator" else self._kills.driver
            inbox = self._inner.exchange(outbox) if kill.after else None
            if self._kills.claim(kill, [pid]):
                _end([pid])
            return self._inner.exchange(outbox) if inbox is None else inbox
        host = self._pid(self._smallest(outbox) if kill.host is None else kill.host)
        pids = [host] if kill.whom == "host" else node_around(host)
        if not self._kills.claim(kill, pids):
            return self._inner.exchange(outbox)
        if not kill.after:
            _end(pids)
            return self._inner.exchange(outbox)
        with _frozen(pids):
            return self._inner.exchange(outbox)

    def _smallest(self, outbox: Frames) -> int:
        """The host that carries the fewest of the clients asked, but at least one."""
        places: Mapping[ClientId, int] = self._inner.places
        carried = Counter(places[client] for client in outbox if client in places)
        return min(carried, key=lambda host: (carried[host], host), default=0)

    def _pid(self, host: int) -> int:
        """The process of a host, which may have to be waited for: it was perhaps killed before.

        Raises:
            ClusterError: there is none for too long.
        """
        until = time.monotonic() + PATIENCE
        while True:
            try:
                actors = self._inner.hosts  # one that kept failing has been replaced
                actor = actors[host % len(actors)]
                return int(ray.get(actor.pid.remote(), timeout=PATIENCE))
            except RayError as error:
                if time.monotonic() > until:
                    raise ClusterError(f"host {host} is to be killed, and is not there") from error
                time.sleep(0.1)

    def _tell(self, stage: Stage, *, began: float, lost: str) -> None:
        line = {
            "pid": os.getpid(),
            "round": self._round,
            "attempt": self._attempt,
            "stage": int(stage),
            "began": began,
            "ended": time.time(),
            "lost": lost,
        }
        with (Path(self._kills.folder) / TRIPS_FILE).open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def node_around(pid: int) -> list[int]:
    """The raylet that began a process, and all that it began: what a node consists of.

    Raises:
        ClusterError: the process is none of a node's, or the node carries this one too.
    """
    raylet = parent_of(pid)
    if raylet is None or name_of(raylet) != "raylet":
        raise ClusterError(f"process {pid} was begun by no raylet: there is no node to kill")
    if raylet == parent_of(os.getpid()):
        raise ClusterError(f"process {pid} is on the coordinator's own node, which is not killed")
    return [raylet, *children_of(raylet)]


def _end(pids: Sequence[int]) -> None:
    """Kills the processes, in their order, if they are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _frozen(pids: Sequence[int]) -> Iterator[None]:
    """Processes that hear nothing any more, and are killed a moment after the block has begun."""

    def end() -> None:
        time.sleep(PAUSE)
        _end(pids)

    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    killer = threading.Thread(target=end, name="kill", daemon=True)
    killer.start()
    try:
        yield
    finally:
        killer.join()
