"""Opacus' PRV accountant: a second opinion on sampled Gaussian steps, and never the ledger's."""

from __future__ import annotations


def prv_epsilon(
    noise_multiplier: float, *, sampling_rate: float, steps: int, delta: float
) -> float:
    """The upper bound on epsilon that PRV gives (Gopi, Lee & Wutschitz 2021, arXiv:2106.02848).

    For `steps` Poisson-subsampled Gaussian releases under add-or-remove-one; Opacus' own error of
    0.01 is in it.
    """
    from opacus.accountants import PRVAccountant  # takes long to import

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sampling_rate, steps)]
    return float(accountant.get_epsilon(delta))
