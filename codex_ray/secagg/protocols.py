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

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar, Literal, Protocol, TypeVar

from pydantic import Field

from codex_ray.errors import ConfigError, ProtocolError, SumAborted
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.committee import EVERYONE_UP_TO, CommitteePlan, plan_committee
from codex_ray.secagg.cost import Attendance, Operations, count
from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.lattice import Modulus
from codex_ray.secagg.messages import SummandRequest
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_cost import count_one_shot
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.secagg.parameters import (
    SMALLEST_COHORT,
    Adversary,
    Assumptions,
    Keys,
    Plan,
    fewest_survivors,
    plan,
)
from codex_ray.secagg.plain import PlainClient, run_clear, run_ideal
from codex_ray.secagg.server import run_session
from codex_ray.secagg.summand import Summand
from codex_ray.secagg.trips import Session
from codex_ray.secagg.unmask import Workers
from codex_ray.types import WORD_BITS, ClientId, Component, SessionContext
from codex_ray.wire import Message


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
    def opening(self) -> Message | None:
        """The first trip's message, where it is the same whoever takes part: it may go out with
        the task, before anyone knows who does. None where it is not."""
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


class Clear(Component):
    """No protection: each summand is a group of its own, so the server sees each update."""

    kind: Literal["clear"] = "clear"
    protection: ClassVar[str] = "no cryptographic protection: the server sees every update"
    identified: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    opening: ClassVar[Message | None] = SummandRequest()

    def session(
        self,
        members: tuple[ClientId, ...],
        context: SessionContext,
        *,
        enrolment: Enrolment | None = None,
        workers: Workers | None = None,
    ) -> Session:
        """One group for each member that answers."""
        return run_clear(members, context)

    def client(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> PlainClient:
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
    stands_for: Literal["secagg_plus", "one_shot"] = Field(
        default="secagg_plus", description="the protocol whose cost each round reports"
    )
    protection: ClassVar[str] = "no cryptographic protection: the sum is taken on trust"
    identified: ClassVar[bool] = False
    folds: ClassVar[bool] = True
    opening: ClassVar[Message | None] = SummandRequest()
    assumed_corrupt: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="fraction of the cohort taken to conspire; sets how many survivors a sum needs",
    )
    fewest_survivors: int = Field(
        default=0,
        ge=0,
        description="clients without whom no sum is opened, where that is more than the protocol "
        "needs; a mechanism with noise inside the sum sets it",
    )

    def session(
        self,
        members: tuple[ClientId, ...],
        context: SessionContext,
        *,
        enrolment: Enrolment | None = None,
        workers: Workers | None = None,
    ) -> Session:
        """One group: the members that sent a summand, if enough of them then stay."""
        with _aborting():
            minimum = fewest_survivors(len(members), self.assumed_corrupt)
        minimum = max(minimum, self.fewest_survivors)
        return (yield from run_ideal(members, context, minimum=minimum))

    def client(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> PlainClient:
        """A client that sends its summand as it is."""
        return PlainClient(me, context, summand)

    def would_cost(self, seen: Attendance, context: SessionContext) -> Operations:
        """What the protocol that it stands for would have taken for a sum with that attendance.

        Raises:
            ConfigError: that protocol has no parameters for so many clients.
        """
        if self.stands_for == "one_shot":
            return OneShot(assumed_corrupt=self.assumed_corrupt).would_cost(seen, context)
        real = SecAggPlus(assumed_corrupt=self.assumed_corrupt).plan(seen.advertised)
        return count(real, seen, dimension=context.dimension, bits=context.bits)

    def check(self, cohort: int) -> None:
        """Nothing, if a sum over so many clients hides its members.

        Raises:
            ConfigError: the cohort is smaller than three.
        """
        fewest_survivors(cohort, self.assumed_corrupt)


class MaskedSum(Component):
    """What secagg and secagg_plus share: everything but how dense the graph is."""

    folds: ClassVar[bool] = True
    opening: ClassVar[Message | None] = None

    adversary: Adversary = Field(
        default="semi_malicious",
        description="semi_honest: the server does as it should and only looks; semi_malicious: "
        "after the first trip it may lie; malicious: clients check the first trip too",
    )
    keys: Keys = Field(
        default="session",
        description="session: pairs agree by fresh keys each time; enrolled: by their enrolled "
        "keys, which is faster where the same clients meet again, without forward secrecy",
    )
    threshold: int | None = Field(
        default=None,
        ge=2,
        description="shares that rebuild a secret; left out, the fewest that keep the bounds",
    )
    smallest_cohort: int = Field(
        default=SMALLEST_COHORT,
        ge=SMALLEST_COHORT,
        description="clients refuse a session that is announced with fewer members",
    )
    assumed_corrupt: float = Field(
        default=0.05, ge=0, lt=0.5, description="fraction of the cohort taken to conspire"
    )
    assumed_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="fraction of the cohort that may drop in a round"
    )
    fewest_survivors: int = Field(
        default=0,
        ge=0,
        description="clients without whom no sum is opened, where that is more than the protocol "
        "needs; a mechanism with noise inside the sum sets it",
    )

    @property
    def protection(self) -> str:
        """Secure aggregation, against this adversary."""
        return f"secure aggregation ({self.adversary.replace('_', '-')} server)"

    @property
    def identified(self) -> bool:
        """Whether clients sign, or agree by enrolled keys."""
        return self.adversary != "semi_honest" or self.keys == "enrolled"

    @abstractmethod
    def degree_for(self, members: int) -> int | None:
        """The degree that is asked of the finder; None leaves it the choice."""

    def plan(self, members: int) -> Plan:
        """The sizes and rules of a session with so many members.

        Raises:
            ConfigError: none keep the bounds, or there are fewer members than `smallest_cohort`.
        """
        _check_cohort(members, self.smallest_cohort)
        sizes = plan(
            members,
            Assumptions(self.assumed_corrupt, self.assumed_dropout, self.adversary),
            degree=self.degree_for(members),
            threshold=self.threshold,
            keys=self.keys,
        )
        return _requiring(sizes, self.fewest_survivors)

    def client(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> SecAggClient:
        """A client that masks its summand and refuses any request to send it as it is."""
        return SecAggClient(
            me, context, summand, plan=self.plan, membership=membership, shared=shared
        )

    def session(
        self,
        members: tuple[ClientId, ...],
        context: SessionContext,
        *,
        enrolment: Enrolment | None = None,
        workers: Workers | None = None,
    ) -> Session:
        """One group: the members whose masked input came, if enough of them then help to unmask."""
        with _aborting():
            sizes = self.plan(len(members))
        return (
            yield from run_session(members, context, sizes, enrolment=enrolment, workers=workers)
        )

    def check(self, cohort: int) -> None:
        """Nothing, if degree and threshold keep their bounds for a cohort of that size.

        Raises:
            ConfigError: they do not, or the cohort is smaller than three.
        """
        self.plan(cohort)


class SecAgg(MaskedSum):
    """Secure aggregation on the complete graph (Bonawitz et al. 2017): for small cohorts."""

    kind: Literal["secagg"] = "secagg"

    def degree_for(self, members: int) -> int | None:
        """Everybody masks with everybody."""
        return max(2, members - 1)


class SecAggPlus(MaskedSum):
    """Secure aggregation on a sparse graph (Bell et al. 2020): cost grows with log n, not n."""

    kind: Literal["secagg_plus"] = "secagg_plus"
    degree: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="neighbours of each client, even; left out, the fewest that keep the bounds",
    )

    def degree_for(self, members: int) -> int | None:
        """The user's own, or the finder's."""
        return self.degree


class OneShot(Component):
    """Secure aggregation in which a client speaks once: for many dropouts and for stragglers."""

    kind: Literal["one_shot"] = "one_shot"
    protection: ClassVar[str] = "secure aggregation (one-shot, ring-LWE)"
    identified: ClassVar[bool] = True
    folds: ClassVar[bool] = True
    opening: ClassVar[Message | None] = None
    adversary: Adversary = Field(
        default="semi_malicious",
        description="semi_honest: the server does as it should and only looks; semi_malicious: it "
        "may show committee members different survivors; malicious: it may also try cohorts",
    )
    packing: int = Field(
        default=1,
        ge=1,
        le=64,
        description="numbers in one share: more make shares shorter and the committee larger",
    )
    smallest_cohort: int = Field(
        default=SMALLEST_COHORT,
        ge=SMALLEST_COHORT,
        description="clients refuse a session that is announced with fewer members",
    )
    assumed_corrupt: float = Field(
        default=0.05, ge=0, lt=0.5, description="fraction of the cohort taken to conspire"
    )
    assumed_committee_dropout: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="fraction of the committee that may be silent; other dropouts cost nothing",
    )
    fewest_survivors: int = Field(
        default=0,
        ge=0,
        description="clients without whom no sum is opened, where that is more than the protocol "
        "needs; a mechanism with noise inside the sum sets it",
    )

    def plan(self, members: int) -> CommitteePlan:
        """The committee of a session with so many members.

        Raises:
            ConfigError: none keeps the bounds, or there are fewer members than `smallest_cohort`.
        """
        _check_cohort(members, self.smallest_cohort)
        assumed = Assumptions(self.assumed_corrupt, self.assumed_committee_dropout, self.adversary)
        # A cohort that is its own committee is small: there each dropout counts more than bytes.
        packing = self.packing if members > EVERYONE_UP_TO else 1
        while packing > 1:
            try:
                found = plan_committee(members, assumed, packing=packing)
                return _requiring(found, self.fewest_survivors)
            except ConfigError:
                packing //= 2
        found = plan_committee(members, assumed, packing=1)
        return _requiring(found, self.fewest_survivors)

    def client(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> OneShotClient:
        """A client that masks its summand and speaks once."""
        if membership is None:
            raise ProtocolError(f"client {me} refuses: one_shot needs an identity and a list")
        shared = shared or SharedWork()
        return OneShotClient(
            me,
            context,
            summand,
            membership=membership,
            plan=self.plan,
            shared=shared,
            spent=shared.spent,
        )

    def session(
        self,
        members: tuple[ClientId, ...],
        context: SessionContext,
        *,
        enrolment: Enrolment | None = None,
        workers: Workers | None = None,
    ) -> Session:
        """One group: the members that spoke, if a quorum of the committee then answers."""
        with _aborting():
            sizes = self.plan(len(members))
        known = enrolment.digest if enrolment else b""
        return (yield from run_one_shot(members, context, sizes, enrolment=known))

    def would_cost(self, seen: Attendance, context: SessionContext) -> Operations:
        """What a sum with that attendance would take, the committee dropping like everybody.

        Raises:
            ConfigError: there are no parameters for so many clients.
        """
        sizes = self.plan(seen.advertised)
        opening = round(sizes.size * seen.unmasked / seen.advertised)
        spoken = replace(seen, unmasked=opening)
        return count_one_shot(sizes, spoken, dimension=context.dimension, bits=context.bits)

    def check(self, cohort: int) -> None:
        """Nothing, if a committee keeps its bounds for a cohort of that size.

        Raises:
            ConfigError: none does, or the cohort is smaller than three or too large for its words.
        """
        self.plan(cohort)
        Modulus.of_sum(cohort, WORD_BITS)


_Sizes = TypeVar("_Sizes", Plan, CommitteePlan)


def _requiring(sizes: _Sizes, fewest: int) -> _Sizes:
    """The same sizes, with as many survivors needed as are asked for."""
    return sizes if fewest <= sizes.minimum else replace(sizes, minimum=fewest)


def _check_cohort(members: int, smallest: int) -> None:
    if members < smallest:
        raise ConfigError(
            f"the cohort is {members}, but federation.protocol.smallest_cohort is {smallest}: "
            "raise the cohort"
        )


@contextmanager
def _aborting() -> Iterator[None]:
    """Turn parameters that this round's cohort cannot meet into an abort of its session."""
    try:
        yield
    except ConfigError as error:
        raise SumAborted(str(error)) from error
