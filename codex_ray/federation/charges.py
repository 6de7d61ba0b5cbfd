"""What a round costs whom: a claim, its event for the clients that survived, and who pays it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_ray.privacy.claims import Claim
from codex_ray.privacy.ledger import EVERYONE, Ledger
from codex_ray.types import ClientId

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Survivors = int | None
"""How many clients are in a sum; None for the fewest that there may be."""


@dataclass(frozen=True)
class Charge:
    """One ledger's price of a round.

    Attributes:
        claim: what its epsilon says.
        event: what a round with so many survivors costs somebody who is in it.
        hidden: whether nobody may learn who was in a cohort: then one entry stands for everyone,
            and all pay in every round.
    """

    claim: Claim
    event: Callable[[Survivors], DpEvent]
    hidden: bool

    def ledger(self, delta: float) -> Ledger:
        """The ledger of this claim, in which nobody has paid yet."""
        return Ledger(self.claim.unit, delta, relation=self.claim.relation)

    def holders(self, clients: tuple[ClientId, ...]) -> tuple[ClientId, ...]:
        """Whose entries pay for a round of `clients`."""
        return (EVERYONE,) if self.hidden else clients
