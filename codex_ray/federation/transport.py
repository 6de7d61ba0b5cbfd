"""The seam: everything between the server and its clients passes through `exchange`, as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from codex_ray.secagg.unmask import do_work
from codex_ray.types import ClientId
from codex_ray.wire import Frame, Message, kind_of, read_frame

Frames = Mapping[ClientId, Frame]


class Transport(Protocol):
    """The plug-in point. Every transport gives the same replies to the same frames, to the bit."""

    @property
    def lost(self) -> frozenset[ClientId]:
        """Clients whose host died in the last exchange, after the survivor set was final."""
        ...

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies that came in time. A client that is missing has gone silent.

        Raises:
            HostLost: a host died before the survivor set was final; the round may be tried again.
        """
        ...

    @property
    def width(self) -> int:
        """How many machines the server's own work can be spread over."""
        ...

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """The result of each piece of the server's own work, in their order."""
        ...

    def recover(self) -> None:
        """Makes lost hosts ready for another attempt; their clients start it from nothing."""
        ...

    def close(self) -> None:
        """Lets go of whatever the transport holds."""
        ...


def work_here(task: Frame) -> bytes:
    """The result of one piece of the server's work, computed in this process."""
    return do_work(read_frame(task)).to_frame()


class TransportWorkers:
    """The machines behind a transport, as a summation session asks for them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def width(self) -> int:
        """In how many pieces work is worth splitting."""
        return self._transport.width

    def work(self, tasks: Sequence[Message]) -> list[Message]:
        """The result of each task, in their order."""
        return [read_frame(it) for it in self._transport.work([task.to_frame() for task in tasks])]


Inner = TypeVar("Inner", bound=Transport)


class Passing(Generic[Inner]):
    """What stands between the server and a transport, and passes on whatever it does not change."""

    def __init__(self, inner: Inner) -> None:
        """Over `inner`."""
        self._inner = inner

    @property
    def lost(self) -> frozenset[ClientId]:
        """Passes on."""
        return self._inner.lost

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """Passes on."""
        return self._inner.exchange(outbox)

    @property
    def width(self) -> int:
        """Passes on."""
        return self._inner.width

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """Passes on."""
        return self._inner.work(tasks)

    def recover(self) -> None:
        """Passes on."""
        self._inner.recover()

    def close(self) -> None:
        """Passes on."""
        self._inner.close()


class Answered(Passing[Transport]):
    """A transport on which one trip is not made, because what every client says in it is known.

    Who falls silent then is for whoever draws it, between this and the server.
    """

    def __init__(self, inner: Transport, reply: Message) -> None:
        """Over `inner`, with `reply` as everyone's answer to the trip that it belongs to."""
        super().__init__(inner)
        self._stage, self._reply = reply.stage, reply.to_frame()
        self._made = True

    @property
    def lost(self) -> frozenset[ClientId]:
        """Passes on; nobody is lost in a trip that is not made."""
        return self._inner.lost if self._made else frozenset()

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The replies, those of the one trip without asking anyone."""
        first = next(iter(outbox.values()), None)  # every trip is of one stage
        self._made = first is None or kind_of(first).stage is not self._stage
        return self._inner.exchange(outbox) if self._made else dict.fromkeys(outbox, self._reply)


class Carrier(Protocol):
    """Whatever answers for clients: a host, with or without something to train."""

    def handle(self, frames: Frames) -> dict[ClientId, bytes]:
        """The reply of each client that was sent a frame and gives one."""
        ...


class LocalTransport:
    """All clients on one host in this process: the reference that other transports must equal."""

    lost: frozenset[ClientId] = frozenset()
    width = 1

    def __init__(self, host: Carrier) -> None:
        self._host = host

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """Every client's reply."""
        return self._host.handle(outbox)

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """The results, computed here."""
        return [work_here(task) for task in tasks]

    def recover(self) -> None:
        """A local host is never lost."""

    def close(self) -> None:
        """Nothing is held."""
