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
        once: whether it is paid once, with the first round, however many follow: what every round
            shows of was shown then.
    """

    claim: Claim
    event: Callable[[Survivors], DpEvent]
    hidden: bool
    once: bool = False

    def ledger(self, delta: float) -> Ledger:
        """The ledger of this claim, in which nobody has paid yet."""
        return Ledger(self.claim.unit, delta, relation=self.claim.relation)

    def owed(self, ledger: Ledger) -> bool:
        """Whether another round costs anybody anything."""
        return not (self.once and ledger.paid)

    def pay(
        self, ledger: Ledger, clients: tuple[ClientId, ...], *, survivors: Survivors = None
    ) -> None:
        """Writes down in `ledger` that a round of `clients` is paid for.

        Raises:
            PrivacyError: nothing is known of the event under the ledger's relation.
        """
        if self.owed(ledger):
            ledger.charge(self.event(survivors), self.holders(clients))

    def holders(self, clients: tuple[ClientId, ...]) -> tuple[ClientId, ...]:
        """Whose entries pay for a round of `clients`."""
        return (EVERYONE,) if self.hidden else clients
