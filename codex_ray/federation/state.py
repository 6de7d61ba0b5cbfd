"""What goes from round to round: a checkpoint is this and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from codex_ray.privacy.ledger import Ledger
from codex_ray.privacy.mechanism import State
from codex_ray.types import ClientId, Stage


@dataclass(frozen=True)
class RoundResult:
    """One round as its observers see it: plain data, and only what the simulated server could see.

    Attributes:
        round: its number, from 0.
        attempts: how often it was begun; more than one means that a host was lost.
        cohort, survivors: how many clients were asked, and how many are in the sum. Not who: where
        the
            cohort's secrecy amplifies privacy, its members are not to be published.
        dropped: how many fell silent, by the stage that they did not answer.
        aborted: why no sum came out; None for a round that was released.
        masks_recovered: pair masks rebuilt from shares because a client dropped out.
        bytes_up: bytes that clients sent, and the most that one of them sent.
        field_seconds: what each trip would have taken on the clients' devices and networks, where
            the experiment describes those (federation.faults.devices); else empty.
        seconds: by stage of the round; `checkpoint` and `evaluate` came after it was persisted.
        epsilon: of the holder who has spent most, by unit; empty in rounds that are not evaluated.
        metrics: what the cohort averaged beside its updates; in rounds that are evaluated also
            those on the pooled test set.
        debug: outside the guarantee; empty unless `debug` is on.
        privacy: what the release itself tells of clipping and noise, such as its signal-to-noise
            ratio; nothing in it costs more than the release did.
        would_cost: the operations and bytes of secure aggregation with these dropouts, where the
            sum was taken on trust instead (ideal); else empty.
        charged: who paid for the round, from which its ledgers can be rebuilt: an entry for each
            attempt that was lost and still has to be paid for, and one for how the round ended.
            `survivors` is how many the event was made for, None for the fewest that there may be;
            `clients` is how many paid, and `members` who: None where the cohort stays hidden.
    """

    round: int
    attempts: int
    cohort: int
    survivors: int
    dropped: dict[str, int]
    aborted: str | None
    masks_recovered: int
    bytes_up: dict[str, int]
    seconds: dict[str, float]
    epsilon: dict[str, float]
    metrics: dict[str, float]
    debug: dict[str, float]
    would_cost: dict[str, float] = field(default_factory=dict)
    privacy: dict[str, float] = field(default_factory=dict)
    charged: list[dict[str, Any]] = field(default_factory=list)
    field_seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The round as plain data: what it holds is plain already, and is not copied."""
        return dict(vars(self))


@dataclass
class Totals:
    """What a run has added up, for its result.

    `bytes_up` has each client's bytes, and stays empty where cohorts must stay hidden: how much a
    client sent tells in how many rounds it was. It stays empty in large populations too, as nobody
    reads a million figures, and they would be written with every round. `unsettled` has the cohorts
    that have paid for an attempt at the coming round which was lost, or is still under way, and
    `opened` says that the server may know the sum of one of them (see `Round.run`).
    """

    dropped: int = 0
    aborted: int = 0
    masks_recovered: int = 0
    seconds: float = 0.0
    field_seconds: float = 0.0
    bytes_total: int = 0
    bytes_up: dict[ClientId, int] = field(default_factory=dict)
    unsettled: list[list[ClientId]] = field(default_factory=list)
    opened: bool = False

    def to_json(self) -> dict[str, Any]:
        """The totals as plain data, which shares what it can with them."""
        return dict(vars(self)) | {"bytes_up": sorted(self.bytes_up.items())}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Totals:
        """The totals that `to_json` wrote; earlier versions did not tell what was opened."""
        bytes_up = {int(c): int(n) for c, n in data["bytes_up"]}
        opened = data.get("opened", bool(data.get("unsettled")))
        return cls(**(data | {"bytes_up": bytes_up, "opened": opened}))


@dataclass
class ServerState:
    """Everything that the next round depends on.

    Attributes:
        run: 16 bytes that name the run; every session's keys are bound to it.
        round: the next round to run.
        params: the global parameters [d], float32.
        optimiser: the algorithm's state [d] or [k, d], float64.
        mechanism: the mechanism's state, which is public.
        ledgers: one for each unit that a claim is made for.
        plan: by which the clients are trained, in one line.
        totals: added up over the rounds so far.
        last: the round before, as it was before it was evaluated: a run that was killed between
            persisting a round and telling of it tells of it when it is resumed.
    """

    run: bytes
    round: int
    params: torch.Tensor
    optimiser: torch.Tensor
    ledgers: list[Ledger]
    mechanism: State = ()
    plan: str = ""
    totals: Totals = field(default_factory=Totals)
    last: RoundResult | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Of two states of a run the larger is the later: rounds, and steps in the next one.

        Without a seed a round is persisted for each cohort that pays, and before a sum is opened.
        """
        return self.round, 2 * len(self.totals.unsettled) + self.totals.opened


def count_dropped(silent: dict[ClientId, Stage]) -> dict[str, int]:
    """How many fell silent at each stage, in the order of the stages."""
    counts = Counter(silent.values())
    return {stage.name.lower(): counts[stage] for stage in sorted(counts)}
