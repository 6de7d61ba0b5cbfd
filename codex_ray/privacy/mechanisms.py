"""Client-level mechanisms: from update to summand, from sum to release, and what that costs.

`encode` (on the client), `release` (on the server) and `event` (for the ledger) sit in one class,
so that the claim covers what really happens to the vector, its rounding included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import torch
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.privacy.quantisation import FixedPoint
from codex_ray.randomness import Stream
from codex_ray.types import Component, GroupSum, Residues

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class PrivacyMechanism(Protocol):
    """The plug-in point: what a client sends, what the server publishes, and its privacy event."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    def grid(self, *, dimension: int, summands: int) -> FixedPoint:
        """The fixed-point grid on which at most `summands` updates [dimension] are added."""
        ...

    def encode(self, update: torch.Tensor, grid: FixedPoint) -> Residues:
        """One client's update [d] as its summand [d]."""
        ...

    def release(
        self, group: GroupSum, *, grid: FixedPoint, expected: float, noise: Stream
    ) -> torch.Tensor:
        """The mean update [d] that may be published; `expected` is the public cohort size."""
        ...

    def event(self) -> DpEvent | None:
        """What one release costs a client that is in it, before amplification; None: no claim."""
        ...


class NoMechanism(Component):
    """Publishes the plain mean of the survivors: no client-level claim.

    The right mechanism when the trainer already protects every record (DP-SGD inside the client):
    what happens to its update afterwards, this mean included, is post-processing.
    """

    kind: Literal["none"] = "none"
    bound: float = Field(
        default=8.0,
        gt=0,
        description="Largest absolute coordinate of an update; larger ones are cut to it.",
    )

    def grid(self, *, dimension: int, summands: int) -> FixedPoint:
        """The grid over [-bound, bound]."""
        return FixedPoint(self.bound, summands)

    def encode(self, update: torch.Tensor, grid: FixedPoint) -> Residues:
        """The update [d], rounded."""
        return grid.encode(update)

    def release(
        self, group: GroupSum, *, grid: FixedPoint, expected: float, noise: Stream
    ) -> torch.Tensor:
        """The mean over the clients that are in the sum; zero when there are none."""
        return grid.decode(group.total) / max(1, len(group.members))

    def event(self) -> DpEvent | None:
        """No client-level claim."""
        return None


class CentralGaussian(Component):
    """Clip each update, add Gaussian noise to the sum at release (McMahan et al. 2018, alg. 1).

    The sum is divided by the public expected cohort size, never by the real one, which depends on
    who is there. Rounding to the grid can add to a norm, so a client clips to `clip_norm` less that
    much: the sensitivity of the sum under add-or-remove-one-client is `clip_norm` exactly.
    """

    kind: Literal["gaussian"] = "gaussian"
    clip_norm: float = Field(gt=0, description="Largest Euclidean norm of one client's update.")
    noise_multiplier: float = Field(
        gt=0, description="Standard deviation of the noise on the sum, in units of clip_norm."
    )

    def grid(self, *, dimension: int, summands: int) -> FixedPoint:
        """The grid over [-clip_norm, clip_norm].

        Raises:
            ConfigError: the cohort is so large that rounding would eat the clip norm.
        """
        grid = FixedPoint(self.clip_norm, summands)
        if grid.rounding_norm(dimension) > 0.1 * self.clip_norm:
            raise ConfigError(
                f"federation.sampler: a sum of up to {summands} updates of {dimension} parameters "
                "does not fit 32-bit words (rounding would take a tenth of the clip norm): lower "
                "the rate"
            )
        return grid

    def encode(self, update: torch.Tensor, grid: FixedPoint) -> Residues:
        """The update [d], clipped and rounded: the norm of the summand is at most clip_norm."""
        vector = update.double()
        norm = float(torch.linalg.vector_norm(vector))
        if not norm < float("inf"):  # NaN and infinity alike: such an update becomes zero.
            return grid.encode(torch.zeros_like(vector))
        allowed = self.clip_norm - grid.rounding_norm(len(vector))
        return grid.encode(vector * min(1.0, allowed / norm) if norm > 0 else vector)

    def release(
        self, group: GroupSum, *, grid: FixedPoint, expected: float, noise: Stream
    ) -> torch.Tensor:
        """(sum + N(0, (noise_multiplier clip_norm)^2)) / expected."""
        total = grid.decode(group.total)
        added = torch.from_numpy(noise.normal(len(total)))
        return (total + self.noise_multiplier * self.clip_norm * added) / expected

    def event(self) -> DpEvent | None:
        """One Gaussian release at this noise multiplier."""
        from dp_accounting import GaussianDpEvent  # slow to import, and hosts never account

        return GaussianDpEvent(self.noise_multiplier)
