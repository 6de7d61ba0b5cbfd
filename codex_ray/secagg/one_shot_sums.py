"""Sums to which each client speaks once, and a committee opens what was said."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.secagg.cohort_rules import aborting, check_cohort, requiring
from codex_ray.secagg.committee import EVERYONE_UP_TO, CommitteePlan, plan_committee
from codex_ray.secagg.cost import Attendance, Operations
from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.lattice import Modulus
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_cost import count_one_shot
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.secagg.parameters import SMALLEST_COHORT, Adversary, Assumptions
from codex_ray.secagg.summand import Summand
from codex_ray.secagg.trips import Session
from codex_ray.secagg.unmask import Workers
from codex_ray.types import WORD_BITS, ClientId, Component, SessionContext
from codex_ray.wire import Message


class OneShot(Component):
    """Secure aggregation in which a client speaks once: for many dropouts and for stragglers."""

    kind: Literal["one_shot"] = "one_shot"
    protection: ClassVar[str] = "secure aggregation (one-shot, ring-LWE)"
    identified: ClassVar[bool] = True
    folds: ClassVar[bool] = True
    unmasked: ClassVar[bool] = False
    opening: ClassVar[Message | None] = None
    standing: ClassVar[Message | None] = None
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
        check_cohort(members, self.smallest_cohort)
        assumed = Assumptions(self.assumed_corrupt, self.assumed_committee_dropout, self.adversary)
        # A cohort that is its own committee is small: there each dropout counts more than bytes.
        packing = self.packing if members > EVERYONE_UP_TO else 1
        while packing > 1:
            try:
                found = plan_committee(members, assumed, packing=packing)
                return requiring(found, self.fewest_survivors)
            except ConfigError:
                packing //= 2
        found = plan_committee(members, assumed, packing=1)
        return requiring(found, self.fewest_survivors)

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
        with aborting():
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
