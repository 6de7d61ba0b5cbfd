"""The settings that `codex-ray bench secagg` measures, and the bar that each is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from codex_ray.secagg.protocols import OneShot, SecAgg, SecAggPlus
from codex_ray.types import ClientId, Stage

Side: TypeAlias = Literal["round", "server"]
SMALLEST = 70
"""Clients of a setting that is scaled down: above the size at which every graph is complete."""


@dataclass(frozen=True)
class Setting:
    """One row of the benchmark.

    Attributes:
        name: what to ask for it by.
        protocol: how clients sum.
        clients, dimension: the size of the round.
        dropped: the fraction that goes silent.
        stage: from which trip on: the one at which it costs the server most.
        side: whose CPU seconds the bar is on.
        bar: CPU seconds on the machine that the published rates are from.
        client_bar: milliseconds of one client there; None for no such bar.
        hosts: Ray hosts that carry the clients; 0 for this process.
        memory_bar: bytes above the idle cluster at the peak; None for no such bar.
        bits: of a residue.
    """

    name: str
    protocol: SecAgg | SecAggPlus | OneShot
    clients: int
    dimension: int
    dropped: float
    stage: Stage
    bar: float
    side: Side = "round"
    client_bar: float | None = None
    hosts: int = 0
    memory_bar: float | None = None
    bits: Literal[16, 32] = 32

    @property
    def silent_from(self) -> dict[ClientId, Stage]:
        """Who is silent from when: ids spread over the cohort.

        In a one-shot sum they never speak, but for those who sit on its committee: `run_round`
        keeps these, all but a twentieth of them, who speak and then fall silent.
        """
        count = int(self.dropped * self.clients)
        return {number * self.clients // count: self.stage for number in range(count)}

    def scaled(self, factor: float) -> Setting:
        """The same with fewer clients and shorter vectors, to see that it works; no bar holds."""
        return replace(
            self,
            clients=max(SMALLEST, int(self.clients * factor)),
            dimension=max(1000, int(self.dimension * factor)),
        )


SETTINGS = (
    Setting(
        "semi-honest",
        SecAggPlus(adversary="semi_honest", assumed_dropout=0.05),
        clients=1000,
        dimension=1_000_000,
        dropped=0.05,
        stage=Stage.MASKED_INPUT,
        bar=16.0,
        client_bar=15.0,
    ),
    Setting(
        "default",
        SecAggPlus(assumed_dropout=0.05),
        clients=1000,
        dimension=1_000_000,
        dropped=0.05,
        stage=Stage.MASKED_INPUT,
        bar=36.0,
    ),
    Setting(
        "one-shot",
        OneShot(packing=1, assumed_committee_dropout=0.05),
        clients=1000,
        dimension=1_000_000,
        dropped=0.3,
        stage=Stage.MASKED_INPUT,
        bar=14.0,
        bits=16,
    ),
    Setting(
        "complete",
        SecAgg(assumed_dropout=0.3),
        clients=500,
        dimension=100_000,
        dropped=0.3,
        stage=Stage.MASKED_INPUT,
        bar=6.0,
        side="server",
    ),
    Setting(
        "hosts",
        SecAggPlus(adversary="semi_honest", assumed_dropout=0.05),
        clients=10_000,
        dimension=100_000,
        dropped=0.05,
        stage=Stage.MASKED_INPUT,
        bar=50.0,
        hosts=2,
        memory_bar=1.5e9,
    ),
    Setting(
        "hosts-enrolled",
        SecAggPlus(adversary="semi_honest", keys="enrolled", assumed_dropout=0.05),
        clients=10_000,
        dimension=100_000,
        dropped=0.05,
        stage=Stage.MASKED_INPUT,
        bar=50.0,
        hosts=2,
        memory_bar=1.5e9,
    ),
)
