"""The summation protocols that an experiment can name, behind one interface.

Threat model of the masked ones, as it is implemented: clients follow the protocol or drop, and up
to the assumed fraction of them tell the server all they know. The server is trusted to run the
first trip honestly, and curious about everything else; under `semi_malicious` it may also lie about
who survived. What rests on that trust:

* keys are not signed, so the server could pose as a client's neighbours;
* the graph depends on no client nonce, only on the context and the member list, so whoever chooses
  these could draw until a client sits among conspirators, and no client sees the list to check;
* how many members there are is the server's word. A client derives degree and threshold from it by
  its own settings and accepts no others, but cannot count the members.

A client that sends wrong values spoils the sum, and one that seals broken shares aborts it: neither
is prevented. The sum itself is not private; that takes a mechanism from `codex_ray.privacy`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from pydantic import Field

from codex_ray.errors import ConfigError, SumAborted
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.parameters import Adversary, Assumptions, Plan, fewest_survivors, plan
from codex_ray.secagg.plain import PlainClient, run_clear, run_ideal
from codex_ray.secagg.server import run_session
from codex_ray.secagg.trips import Session
from codex_ray.types import ClientId, Component, Residues, SessionContext
from codex_ray.wire import Message


class SumClient(Protocol):
    """A client's half of a session."""

    def answer(self, message: Message) -> Message:
        """The reply to `message`, or a ProtocolError that reveals nothing."""
        ...


class SumProtocol(Protocol):
    """A way to sum residues: the server's half, the client's half, and what cohort it can serve."""

    def session(self, members: tuple[ClientId, ...], context: SessionContext) -> Session:
        """The server's half: yields each trip's outbox, is sent the inbox, returns the sums."""
        ...

    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> SumClient:
        """The client's half of the same session."""
        ...

    def check(self, cohort: int) -> None:
        """Nothing, or a ConfigError if a cohort of that expected size cannot be served."""
        ...


class Clear(Component):
    """No protection: each summand is a group of its own, so the server sees each update."""

    kind: Literal["clear"] = "clear"

    def session(self, members: tuple[ClientId, ...], context: SessionContext) -> Session:
        """One group for each member that answers."""
        return run_clear(members, context)

    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> PlainClient:
        """A client that sends its summand as it is."""
        return PlainClient(me, context, summand)

    def check(self, cohort: int) -> None:
        """Nothing, unless nobody takes part.

        Raises:
            ConfigError: the cohort is empty.
        """
        if cohort < 1:
            raise ConfigError(f"the cohort is {cohort}: raise it to at least 1")


class Ideal(Component):
    """The oracle: what secagg gives for the same survivors, added up by a trusted server."""

    kind: Literal["ideal"] = "ideal"
    assumed_corrupt: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="fraction of the cohort taken to conspire; sets how many survivors a sum needs",
    )

    def session(self, members: tuple[ClientId, ...], context: SessionContext) -> Session:
        """One group: the members that sent a summand, if enough of them then stay."""
        with _aborting():
            minimum = fewest_survivors(len(members), self.assumed_corrupt)
        return (yield from run_ideal(members, context, minimum=minimum))

    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> PlainClient:
        """A client that sends its summand as it is."""
        return PlainClient(me, context, summand)

    def check(self, cohort: int) -> None:
        """Nothing, if a sum over so many clients hides its members.

        Raises:
            ConfigError: the cohort is smaller than three.
        """
        fewest_survivors(cohort, self.assumed_corrupt)


class MaskedSum(Component):
    """What secagg and secagg_plus share: everything but how dense the graph is."""

    threshold: int | None = Field(
        default=None,
        ge=2,
        description="shares that rebuild a secret; left out, the fewest that keep the bounds",
    )
    assumed_corrupt: float = Field(
        default=0.05, ge=0, lt=0.5, description="fraction of the cohort taken to conspire"
    )
    assumed_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="fraction of the cohort that may drop in a round"
    )

    @abstractmethod
    def plan(self, members: int) -> Plan:
        """The sizes of a session with so many members; ConfigError if there are none."""

    @abstractmethod
    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> SecAggClient:
        """A client that masks its summand and refuses any request to send it as it is."""

    def session(self, members: tuple[ClientId, ...], context: SessionContext) -> Session:
        """One group: the members whose masked input came, if enough of them then help to unmask."""
        with _aborting():
            sizes = self.plan(len(members))
        return (yield from run_session(members, context, sizes))

    def check(self, cohort: int) -> None:
        """Nothing, if degree and threshold keep their bounds for a cohort of that size.

        Raises:
            ConfigError: they do not, or the cohort is smaller than three.
        """
        self.plan(cohort)


class SecAgg(MaskedSum):
    """Secure aggregation on the complete graph (Bonawitz et al. 2017): for small cohorts."""

    kind: Literal["secagg"] = "secagg"

    def plan(self, members: int) -> Plan:
        """The sizes of a session in which everybody masks with everybody."""
        assumed = Assumptions(self.assumed_corrupt, self.assumed_dropout)
        return plan(members, assumed, degree=max(2, members - 1), threshold=self.threshold)

    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> SecAggClient:
        """A client that masks its summand and refuses any request to send it as it is."""
        return SecAggClient(me, context, summand, plan=self.plan)


class SecAggPlus(MaskedSum):
    """Secure aggregation on a sparse graph (Bell et al. 2020): cost grows with log n, not n."""

    kind: Literal["secagg_plus"] = "secagg_plus"
    degree: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="neighbours of each client, even; left out, the fewest that keep the bounds",
    )
    adversary: Adversary = Field(
        default="semi_malicious",
        description="semi_honest: the server reports survivors truthfully; "
        "semi_malicious: it may tell clients different survivors",
    )

    def plan(self, members: int) -> Plan:
        """The sizes of a session on the sparsest graph that keeps the bounds."""
        assumed = Assumptions(self.assumed_corrupt, self.assumed_dropout, self.adversary)
        return plan(members, assumed, degree=self.degree, threshold=self.threshold)

    def client(self, me: ClientId, context: SessionContext, summand: Residues) -> SecAggClient:
        """A client that masks its summand and refuses any request to send it as it is."""
        return SecAggClient(me, context, summand, plan=self.plan)


@contextmanager
def _aborting() -> Iterator[None]:
    """Turn parameters that this round's cohort cannot meet into an abort of its session."""
    try:
        yield
    except ConfigError as error:
        raise SumAborted(str(error)) from error
