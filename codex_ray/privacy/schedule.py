"""Who may take part when: the promise on which the sensitivity of correlated noise rests.

Noise that one round takes back from another is as good as the promise that no client is in too many
of them, or in two that lie too close ("(k, b)-participation", Choquette-Choo et al. 2023,
arXiv:2306.08153, section 2). The sampler keeps it; who checks a run checks it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codex_ray.errors import PrivacyError
from codex_ray.types import ClientId


@dataclass(frozen=True)
class Schedule:
    """The rounds of a run, and how a client may be spread over them.

    Attributes:
        rounds: n, how many rounds there are.
        separation: b, at least so many rounds lie from one participation of a client to its next:
            1 where it may be in every round.
        participations: k, the most rounds that a client is in.

    Raises:
        PrivacyError: a number below 1, or more participations than fit.
    """

    rounds: int
    separation: int
    participations: int

    def __post_init__(self) -> None:
        """Refuses what nobody can keep."""
        if min(self.rounds, self.separation, self.participations) < 1:
            raise PrivacyError(f"{self}: every number of a schedule is at least 1")
        fit = -(-self.rounds // self.separation)
        if self.participations > fit:
            raise PrivacyError(
                f"{self}: {self.rounds} rounds hold {fit} participations that lie "
                f"{self.separation} apart: lower participations to that"
            )

    def check(self, cohorts: Iterable[Iterable[ClientId]]) -> None:
        """Passes if these cohorts, from round 0 on, keep the schedule.

        A cohort is whoever was asked: a client that dropped out of one has taken part for all that
        the sampler knows.

        Raises:
            PrivacyError: naming the first client that breaks it, and the round.
        """
        before: dict[ClientId, int] = {}
        times: dict[ClientId, int] = {}
        for number, cohort in enumerate(cohorts):
            if number >= self.rounds:
                raise PrivacyError(f"round {number}: the schedule has {self.rounds} rounds")
            for client in cohort:
                last = before.get(client)
                if last is not None and number - last < self.separation:
                    raise PrivacyError(
                        f"client {client} is in rounds {last} and {number}, and the noise is made "
                        f"for participations {self.separation} rounds apart"
                    )
                before[client] = number
                times[client] = times.get(client, 0) + 1
                if times[client] > self.participations:
                    raise PrivacyError(
                        f"client {client} is in {times[client]} rounds up to round {number}, and "
                        f"the noise is made for {self.participations}"
                    )
