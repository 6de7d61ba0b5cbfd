"""Epsilons and noise multipliers against the figures that were published for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_most, held, near, near_share
from codex_ray.bench.published_noise import Published, published
from codex_ray.learning.second_opinion import prv_epsilon
from codex_ray.privacy.accountants import AccountantName, account
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.events import Entries, Relation

RATE: Final = 0.01
NOISE: Final = 1.0
STEPS: Final = 1000
DELTA: Final = 1e-5
"""The setting in which accountants are compared: DP-SGD for ten epochs."""
PARTICIPATIONS: Final = 10
"""How often a record is in that training if it is in one batch of each epoch."""
CALIBRATION_SECONDS: Final = 1.5
CALIBRATION_ERROR: Final = 0.01


def accountants(scale: float) -> Iterator[Row]:
    """A row for each accountant and each relation; nothing in it can be scaled down."""
    import dp_accounting as dp

    sampled = ((dp.PoissonSampledDpEvent(RATE, dp.GaussianDpEvent(NOISE)), STEPS),)
    whole = ((dp.GaussianDpEvent(NOISE), PARTICIPATIONS),)
    setting = f"rate {RATE:g}, noise {NOISE:g}, {STEPS} steps, delta {DELTA:g}"
    yield _accounted("epsilon by PLD", sampled, 1.828, 0.002, setting)
    yield _accounted("epsilon by RDP", sampled, 2.1014, 0.001, setting, accountant="rdp")
    prv = Figure("epsilon", _prv(), 1.82, 1.85)
    yield Row("epsilon by PRV", f"{prv.value:.4f}", f"1.82 to 1.85 ({setting})", (prv,))
    yield _accounted("epsilon, replace-one", sampled, 2.843, 0.003, setting, relation="replace_one")
    setting = f"noise {NOISE:g}, {PARTICIPATIONS} participations, delta {DELTA:g}"
    yield _accounted("epsilon without amplification", whole, 17.86, 0.02, setting)


def _accounted(
    name: str,
    entries: Entries,
    bar: float,
    within: float,
    setting: str,
    *,
    relation: Relation = "add_or_remove_one",
    accountant: AccountantName = "pld",
) -> Row:
    found = account(entries, DELTA, relation=relation, accountant=accountant)
    figure = near("epsilon", found.epsilon, bar, within=within)
    return Row(name, f"{found.epsilon:.4f}", f"{bar:g} ± {within:g} ({setting})", (figure,))


def _prv() -> float:
    return prv_epsilon(NOISE, sampling_rate=RATE, steps=STEPS, delta=DELTA)


def calibrations(scale: float) -> Iterator[Row]:
    """A row for each published table; scaled down, with the first setting of each only."""
    import dp_accounting  # noqa: F401  # it is imported once, and no calibration's to pay for

    for table, settings in groupby(published(), lambda setting: setting.table):
        yield _calibrated(table, list(islice(settings, None if scale >= 1 else 1)))


def _calibrated(table: str, settings: list[Published]) -> Row:
    figures, seconds = [], []
    for setting in settings:
        began = time.process_time()
        noise = calibrate(
            setting.event,
            setting.releases,
            epsilon=setting.epsilon,
            delta=setting.delta,
            accountant=setting.accountant,
        )
        seconds.append(time.process_time() - began)
        reached = account(
            ((setting.event(noise), setting.releases),),
            setting.delta,
            accountant=setting.accountant,
        ).epsilon
        figures += [
            near_share(f"noise ({setting.words})", noise, setting.noise, share=CALIBRATION_ERROR),
            at_most(f"epsilon / target ({setting.words})", reached / setting.epsilon, 1.0),
        ]
    noises = figures[::2]
    worst = max(
        abs(one.value / setting.noise - 1) for one, setting in zip(noises, settings, strict=True)
    )
    slowest = at_most("slowest, CPU seconds", max(seconds), CALIBRATION_SECONDS)
    return Row(
        f"noise for a target: {table}",
        f"{held(noises)} settings, off by up to {worst:.2%}; slowest {slowest.value:.2f} s",
        f"within {CALIBRATION_ERROR:.0%} of the published noise, each in less than "
        f"{CALIBRATION_SECONDS:g} CPU-s",
        (*figures, slowest),
    )
