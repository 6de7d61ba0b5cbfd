"""Sums without cryptography: in the clear, and by a server that is trusted with every summand."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.secagg.cohort_rules import aborting
from codex_ray.secagg.cost import Attendance, Operations, count
from codex_ray.secagg.identity import Enrolment, Membership, SharedWork
from codex_ray.secagg.masked_sums import SecAggPlus
from codex_ray.secagg.messages import SummandRequest, SurvivorAck
from codex_ray.secagg.one_shot_sums import OneShot
from codex_ray.secagg.parameters import fewest_survivors
from codex_ray.secagg.plain import PlainClient, run_clear, run_ideal
from codex_ray.secagg.summand import Summand
from codex_ray.secagg.trips import Session
from codex_ray.secagg.unmask import Workers
from codex_ray.types import ClientId, Component, SessionContext
from codex_ray.wire import Message


class Clear(Component):
    """No protection: each summand is a group of its own, so the server sees each update."""

    kind: Literal["clear"] = "clear"
    protection: ClassVar[str] = "no cryptographic protection: the server sees every update"
    identified: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    unmasked: ClassVar[bool] = True
    opening: ClassVar[Message | None] = SummandRequest()
    standing: ClassVar[Message | None] = None

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
    unmasked: ClassVar[bool] = True
    opening: ClassVar[Message | None] = SummandRequest()
    standing: ClassVar[Message | None] = SurvivorAck()
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
        with aborting():
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
