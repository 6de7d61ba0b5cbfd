"""The summation side of a host: its clients' identities, and their halves of the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from codex_ray.errors import HostLost, ProtocolError
from codex_ray.federation.folding import Folding
from codex_ray.federation.messages import Enrolled, EnrolmentList
from codex_ray.privacy.quantisation import no_words
from codex_ray.secagg.identity import Enrolment, Identity, Membership, SharedWork
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.secagg.summand import Summand
from codex_ray.types import ClientId, Residues, SessionContext
from codex_ray.wire import Message


class ClientSession(Protocol):
    """One client's side of one summation session."""

    def answer(self, message: Message) -> Message:
        """The reply to the server's message.

        Raises:
            ProtocolError: the message would make the client reveal more than the protocol allows.
        """
        ...


@dataclass
class _Seat:
    """A client's place in the session to come, and in the session once it has begun."""

    context: SessionContext
    summand: Summand | None = field(repr=False)
    session: ClientSession | None = field(default=None, repr=False)


class Sessions:
    """The sessions of the clients on one host, one for each, and what they may share.

    Identities are made here from the operating system's randomness, when they are first asked for,
    and live as long as the host: an enrolled client is who it was. So of all that is held here they
    alone grow with the clients that were ever asked, by about a kilobyte each (two key pairs), and
    only under a protocol that needs them: a million clients who all take part take a gigabyte.
    """

    def __init__(self, protocol: SumProtocol, *, fold: bool) -> None:
        """No sessions yet; `fold` adds up what clients send to be summed, where that is allowed."""
        self._protocol = protocol
        self._fold = fold and protocol.folds
        self._identities: dict[ClientId, Identity] = {}
        self._enrolment: Enrolment | None = None
        self._shared = SharedWork(remember=True)
        self._seats: dict[ClientId, _Seat] = {}

    def identity(self, client: ClientId) -> bytes:
        """The public half of the client's identity; empty where the protocol needs none."""
        if not self.identified:
            return b""
        if client not in self._identities:
            self._identities[client] = Identity.fresh()
        return self._identities[client].public

    @property
    def identified(self) -> bool:
        """Whether clients need an identity."""
        return self._protocol.identified

    def begin(self) -> None:
        """Forgets what clients shared in the session before."""
        self._shared.end_session()

    def forget(self) -> None:
        """Forgets the seats of an attempt that is over, or else a host would keep everybody's."""
        self._seats.clear()

    def seat(self, client: ClientId, context: SessionContext, *, summand: Summand) -> None:
        """Keeps the client's summand for the session to come; what it had before is gone."""
        self._seats[client] = _Seat(context, summand)

    def adds_ahead(self, opening: Message | None) -> bool:
        """Whether summands may be added before they are seated, for clients who are asked so.

        What they send is added up anyway, it is the summand as it is, and nobody refuses it.
        """
        protocol = self._protocol
        asked = opening is not None and opening == protocol.opening
        return asked and self._fold and protocol.unmasked

    def seat_together(
        self, clients: Sequence[ClientId], context: SessionContext, *, total: Residues
    ) -> None:
        """Keeps the sum of what they bring: for the first of them, and zeros for the others."""
        nothing = no_words(len(total), bits=context.bits)
        nothing.flags.writeable = False
        for client in clients:
            self.seat(client, context, summand=total if client == clients[0] else nothing)

    def answer_together(
        self, clients: Sequence[ClientId], message: Message, folding: Folding
    ) -> dict[ClientId, Message]:
        """The replies of clients who were seated together: of all of them, or of nobody.

        One that refused would have its update in the sum, or would take those of others with it.

        Raises:
            ProtocolError: a client refuses.
        """
        replies = [self.answer(client, message) for client in clients]
        return dict(zip(clients, folding.fold_ahead(replies), strict=True))

    def folding(self, *, bits: int) -> Folding | None:
        """Adds up the summands in the replies of one call, where that is allowed."""
        return Folding(bits=bits) if self._fold else None

    def answer(self, client: ClientId, message: Message) -> Message:
        """The client's reply to a message of the summation, or to the enrolment list before it.

        Raises:
            HostLost: the client has no summand here.
            ProtocolError: the client refuses.
        """
        if client not in self._seats:
            # The host that trained it is gone, and this one has taken its place.
            raise HostLost(f"client {client} was not trained here")
        if isinstance(message, EnrolmentList):
            return self._enrol(client, message)
        seat = self._seats[client]
        if seat.session is None:
            seat.session = self._open(client, seat)
        return seat.session.answer(message)

    def _enrol(self, client: ClientId, message: EnrolmentList) -> Enrolled:
        """Takes the list, if it knows the client by its own keys."""
        if message.entries.get(client) != self.identity(client):
            raise ProtocolError("the enrolment list does not hold its own identity")
        if self._enrolment is None or self._enrolment.entries is not message.entries:
            self._enrolment = Enrolment(message.entries)  # one list for all clients of a call
        return Enrolled()

    def _open(self, client: ClientId, seat: _Seat) -> ClientSession:
        """The client's half of the session; its summand goes over to it."""
        membership = None
        if self.identified:
            if self._enrolment is None:
                raise ProtocolError("there is no enrolment list yet")
            membership = Membership(self._identities[client], self._enrolment)
        summand, seat.summand = seat.summand, None
        assert summand is not None  # A seat is opened once.
        return self._protocol.client(
            client, seat.context, summand, membership=membership, shared=self._shared
        )
