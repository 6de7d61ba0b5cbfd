"""Sums of masked inputs in four trips: SecAgg on the complete graph, SecAgg+ on a sparse one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field

from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.cohort_rules import aborting, check_cohort, requiring
from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.parameters import (
    SMALLEST_COHORT,
    Adversary,
    Assumptions,
    Keys,
    Plan,
    plan,
)
from codex_ray.secagg.server import run_session
from codex_ray.secagg.summand import Summand
from codex_ray.secagg.trips import Session
from codex_ray.secagg.unmask import Workers
from codex_ray.types import ClientId, Component, SessionContext
from codex_ray.wire import Message


class MaskedSum(Component):
    """What secagg and secagg_plus share: everything but how dense the graph is."""

    folds: ClassVar[bool] = True
    unmasked: ClassVar[bool] = False
    opening: ClassVar[Message | None] = None
    standing: ClassVar[Message | None] = None

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
        check_cohort(members, self.smallest_cohort)
        sizes = plan(
            members,
            Assumptions(self.assumed_corrupt, self.assumed_dropout, self.adversary),
            degree=self.degree_for(members),
            threshold=self.threshold,
            keys=self.keys,
        )
        return requiring(sizes, self.fewest_survivors)

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
        with aborting():
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
