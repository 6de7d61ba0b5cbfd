"""`noise_multiplier: auto`: the least noise with which a whole run stays within its budget.

It is solved for before anything runs, with the accountant that the ledger uses, for somebody who
takes part as often as anyone may; the resolved configuration holds the number that was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from codex_ray.assembly import assemble, charges
from codex_ray.errors import ConfigError, PrivacyError
from codex_ray.experiment import Experiment
from codex_ray.federation.charges import Charge
from codex_ray.federation.federation import Federation
from codex_ray.figures import figures_event
from codex_ray.privacy.calibration import calibrate
from codex_ray.privacy.claims import LOCAL, LOCAL_STEPS
from codex_ray.privacy.events import Entries, Relation, flatten
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.privacy.noise_multiplier import AUTO

if TYPE_CHECKING:
    from dp_accounting import DpEvent

MECHANISM: Final = ("federation", "mechanism")
RECORDS: Final = ("local_noise",)
PLACES: Final = (("trainer",), RECORDS, MECHANISM)
"""Who has a noise multiplier."""
DIGITS: Final = 6
"""Significant digits that are kept of it; the last is rounded up."""


def asked(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Which of the places in a mapping of an experiment ask for their noise to be found."""
    return [place for place in PLACES if _section(data, place).get("noise_multiplier") == AUTO]


def _section(data: Mapping[str, Any], place: tuple[str, ...]) -> Mapping[str, Any]:
    for name in place:
        inner = data.get(name)
        data = inner if isinstance(inner, Mapping) else {}
    return data


def calibrated(experiment: Experiment, place: tuple[str, ...]) -> Experiment:
    """The experiment with the least noise at `place` that its budget allows.

    Raises:
        ConfigError: there is no budget, or no noise keeps it.
    """
    key = ".".join((*place, "noise_multiplier"))
    larger = experiment.federation.presumed if place == MECHANISM else None
    target = experiment.budget.epsilon if larger is None else larger.epsilon
    if target is None:
        field = "budget.epsilon" if larger is None else "federation.mechanism.noise_cohort.epsilon"
        raise ConfigError(f"{key} is auto, which needs a target: set {field}")
    find = _trainer_noise if place == ("trainer",) else _mechanism_noise
    if place == RECORDS:
        find = _records_noise
    try:
        noise = _rounded_up(find(experiment, target))
    except PrivacyError as error:
        raise ConfigError(f"{key}: {error}") from None
    return with_noise(experiment, place, noise)


def with_noise(experiment: Experiment, place: tuple[str, ...], noise: float) -> Experiment:
    """The experiment with that noise multiplier at `place`."""
    if place == ("trainer",):
        trainer = experiment.trainer.model_copy(update={"noise_multiplier": noise})
        return experiment.model_copy(update={"trainer": trainer})
    if place == RECORDS:
        assert experiment.local_noise is not None  # It has the place.
        louder = experiment.local_noise.model_copy(update={"noise_multiplier": noise})
        return experiment.model_copy(update={"local_noise": louder})
    federation = _louder(experiment.federation, noise)
    return experiment.model_copy(update={"federation": federation})


def _louder(federation: Federation, noise: float) -> Federation:
    mechanism = federation.mechanism.model_copy(update={"noise_multiplier": noise})
    return federation.model_copy(update={"mechanism": mechanism})


def _rounded_up(noise: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(noise)) + 1 - DIGITS)
    return float(f"{math.ceil(noise / unit) * unit:.{DIGITS}g}")


def _trainer_noise(experiment: Experiment, epsilon: float) -> float:
    trainer = experiment.trainer

    def event_of(noise: float) -> DpEvent:
        event = trainer.model_copy(update={"noise_multiplier": noise}).event()
        assert event is not None  # What has a noise multiplier makes a claim.
        return event

    spare = _set_aside(experiment)
    return _solved(event_of, experiment, epsilon, relation=LOCAL_STEPS.relation, spare=spare)


def _set_aside(experiment: Experiment) -> float:
    """The part of delta that is the chance of a cohort too small, where that is told by a claim."""
    return 0.0 if experiment.federation.mechanism.kind == "none" else assemble(experiment).shortfall


def _records_noise(experiment: Experiment, epsilon: float) -> float:
    def event_of(noise: float) -> DpEvent:
        louder = with_noise(experiment, RECORDS, noise).local_noise
        assert louder is not None
        return louder.event()

    return calibrate(
        event_of,
        1,
        epsilon=epsilon,
        delta=experiment.budget.delta - _set_aside(experiment),
        relation=LOCAL.relation,
    )


def _mechanism_noise(experiment: Experiment, epsilon: float) -> float:
    larger = experiment.federation.presumed
    if larger is not None:
        return calibrate(
            larger.event, experiment.rounds, epsilon=epsilon, delta=experiment.budget.delta
        )
    built = assemble(experiment.model_copy(update={"debug": False}))
    population, federation = built.dataset.population, experiment.federation
    dimension = built.model.dimension

    records = getattr(experiment.trainer, "summands", None)

    def charge_of(noise: float) -> Charge:
        louder = with_noise(experiment, MECHANISM, noise)
        codec = built.codec
        if isinstance(federation.mechanism, NoiseInside):
            codec = louder.federation.codec(
                population=population, dimension=dimension, records=records
            )
        found = charges(louder, codec=codec, population=population)
        return next(c for c in found if c.claim is not LOCAL_STEPS and not c.once)

    def event_of(noise: float) -> DpEvent:
        return charge_of(noise).event(None)

    relation = charge_of(1.0).claim.relation
    spare = built.shortfall
    return _solved(event_of, experiment, epsilon, relation=relation, spare=spare)


def _figures(experiment: Experiment) -> Entries:
    """What is paid before round 0 for figures of the records, out of the same budget."""
    if experiment.preparation.noise_multiplier is None:
        return ()
    event = figures_event(experiment, assemble(experiment).dataset.population)
    assert event is not None  # Noise makes a claim.
    return ((event, 1),)


def _solved(
    event_of: Callable[[float], DpEvent],
    experiment: Experiment,
    epsilon: float,
    *,
    relation: Relation,
    spare: float = 0.0,
) -> float:
    often = experiment.federation.sampler.schedule(experiment.rounds).participations
    once = _figures(experiment)

    def paid(noise: float) -> DpEvent | Entries:
        event, times = flatten(event_of(noise))
        return ((event, times * often), *once)

    return calibrate(
        paid if once else event_of,
        1 if once else often,
        epsilon=epsilon,
        delta=experiment.budget.delta - spare,
        relation=relation,
    )
