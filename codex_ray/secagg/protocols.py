"""The summation protocols that an experiment can name, behind one interface.

What each assumes and what none of them gives is in docs/protocol.md. In short: clients follow the
protocol or drop, and up to the assumed fraction of them tell the server all they know. Under
`semi_honest` the server does as it should and only looks; under `semi_malicious` it is trusted with
the first trip (who takes part, and so the graph) and may lie afterwards; under `malicious` the
clients check that trip too, and each other's view of who survived.

A client that sends wrong values spoils the sum, and one that deals broken shares aborts it: neither
is prevented. The sum itself is not private; that takes a mechanism from `codex_ray.privacy`.
"""

from __future__ import annotations

from typing import Protocol

from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.masked_sums import MaskedSum, SecAgg, SecAggPlus
from codex_ray.secagg.one_shot_sums import OneShot
from codex_ray.secagg.summand import Summand
from codex_ray.secagg.trips import Session
from codex_ray.secagg.trusted_sums import Clear, Ideal
from codex_ray.secagg.unmask import Workers
from codex_ray.types import ClientId, SessionContext
from codex_ray.wire import Message

__all__ = (
    "Clear",
    "Ideal",
    "MaskedSum",
    "OneShot",
    "SecAgg",
    "SecAggPlus",
    "SumClient",
    "SumProtocol",
)


class SumClient(Protocol):
    """A client's half of a session."""

    def answer(self, message: Message) -> Message:
        """The reply to `message`, or a ProtocolError that reveals nothing."""
        ...


class SumProtocol(Protocol):
    """A way to sum residues: the server's half, the client's half, and what cohort it can serve."""

    @property
    def identified(self) -> bool:
        """Whether its clients need an identity and an enrolment list."""
        ...

    @property
    def folds(self) -> bool:
        """Whether a host may add up what its clients send to be summed: one group, one sum."""
        ...

    @property
    def unmasked(self) -> bool:
        """Whether clients send their summands as they are: a host that may add up what they send
        may then add before they do. Not so where each of them has to be masked by itself."""
        ...

    @property
    def opening(self) -> Message | None:
        """The first trip's message, where it is the same whoever takes part: it may go out with
        the task, before anyone knows who does. None where it is not."""
        ...

    @property
    def standing(self) -> Message | None:
        """What each client that sent its summand answers to the trip after it, where nothing of a
        client's own goes into that: it may be taken as said. None where something does."""
        ...

    @property
    def protection(self) -> str:
        """What stands between the server and a single summand, in words."""
        ...

    def session(
        self,
        members: tuple[ClientId, ...],
        context: SessionContext,
        *,
        enrolment: Enrolment | None = None,
        workers: Workers | None = None,
    ) -> Session:
        """The server's half: yields each trip's outbox, is sent the inbox, returns the sums."""
        ...

    def client(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> SumClient:
        """The client's half of the same session."""
        ...

    def check(self, cohort: int) -> None:
        """Nothing, or a ConfigError if a cohort of that expected size cannot be served."""
        ...
