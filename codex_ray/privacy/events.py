"""Privacy events: how they are grouped, written down, said in words, and under which relation."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from codex_ray.errors import PrivacyError

if TYPE_CHECKING:
    from dp_accounting import DpEvent, RandomizedResponseDpEvent

Relation = Literal["add_or_remove_one", "replace_one"]
Entries: TypeAlias = "tuple[tuple[DpEvent, int], ...]"
"""Events with how often each was paid."""

GRID = 100
"""Survivor counts are rounded down to this many steps of the cohort before an event is made."""


def on_grid(survivors: int, cohort: int) -> int:
    """`survivors` rounded down to a whole per cent of the public `cohort` size.

    Fewer survivors mean less noise, so an event made of this number never claims too much, and a
    ledger of any length holds about a hundred different ones. A cohort of up to 100 is its own
    grid.

    Raises:
        PrivacyError: there is no such cohort.
    """
    if cohort < 1 or survivors < 0:
        raise PrivacyError(f"{survivors} survivors of a cohort of {cohort}: no such cohort")
    if cohort <= GRID:
        return survivors
    return ((survivors + 1) * GRID - 1) // cohort * cohort // GRID


def flatten(event: DpEvent) -> tuple[DpEvent, int]:
    """(inner, count) without self-composition, so that equal events group in a ledger."""
    import dp_accounting  # slow to import, and hosts never account

    count = 1
    while isinstance(event, dp_accounting.SelfComposedDpEvent):
        count *= event.count
        event = event.event
    return event, count


def check_relation(event: DpEvent, relation: Relation) -> None:
    """Passes if what is known of `event` holds under `relation`.

    Raises:
        PrivacyError: it does not, nobody accounts such an event, or there is no such relation.
    """
    if relation not in ("add_or_remove_one", "replace_one"):
        raise PrivacyError(
            f"neighbouring relation {relation!r} is unknown: use add_or_remove_one or replace_one"
        )
    known = relations(event)
    if relation not in known:
        raise PrivacyError(
            f"{event_in_words(event)} is accounted under {known[0]} only, not under {relation}: "
            f"ask for {known[0]}, or choose another sampler or mechanism"
        )


def relations(event: DpEvent) -> tuple[Relation, ...]:
    """The neighbouring relations under which `event` can be accounted.

    Raises:
        PrivacyError: an event of a kind that no accountant here knows.
    """
    import dp_accounting as dp

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

    match event:
        case dp.GaussianDpEvent() | DiscreteGaussianSum() | SkellamSum():
            return ("add_or_remove_one", "replace_one")
        case dp.PoissonSampledDpEvent(event=dp.GaussianDpEvent()):
            return ("add_or_remove_one", "replace_one")
        case dp.PoissonSampledDpEvent(event=DiscreteGaussianSum() | SkellamSum()):
            return ("add_or_remove_one",)
        case dp.SampledWithoutReplacementDpEvent(
            event=dp.GaussianDpEvent() | DiscreteGaussianSum() | SkellamSum()
        ):
            return ("replace_one",)
        case dp.RandomizedResponseDpEvent():
            return ("replace_one",)
        case dp.ComposedDpEvent():
            known = [relations(part) for part in event.events]
            return tuple(one for one in known[0] if all(one in other for other in known))
    raise PrivacyError(f"no accountant here knows the event {event!r}")


def has_loss_distribution(event: DpEvent) -> bool:
    """Whether the exact distribution of the privacy loss is known (PLD), not only a Renyi bound."""
    import dp_accounting as dp

    if isinstance(event, dp.ComposedDpEvent):
        return all(has_loss_distribution(part) for part in event.events)
    inner = event.event if isinstance(event, dp.PoissonSampledDpEvent) else event
    return isinstance(inner, dp.GaussianDpEvent) or isinstance(event, dp.RandomizedResponseDpEvent)


def parts_of(event: DpEvent) -> tuple[DpEvent, ...]:
    """The events that an event is composed of: itself, unless it is several at once."""
    import dp_accounting as dp

    if not isinstance(event, dp.ComposedDpEvent):
        return (event,)
    return tuple(inner for part in event.events for inner in parts_of(part))


def answers(event: RandomizedResponseDpEvent) -> tuple[float, float]:
    """The probabilities of the true label and of each other one under randomised response."""
    other = event.noise_parameter / event.num_buckets
    return 1 - event.noise_parameter + other, other


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """The event as plain data.

    Raises:
        PrivacyError: an event of a kind that no mechanism here emits.
    """
    import dp_accounting as dp

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

    match event:
        case dp.GaussianDpEvent():
            return {"event": "gaussian", "noise_multiplier": event.noise_multiplier}
        case DiscreteGaussianSum():
            return {"event": "discrete_gaussian_sum", **asdict(event)}
        case SkellamSum():
            return {"event": "skellam_sum", **asdict(event)}
        case dp.PoissonSampledDpEvent():
            rate = event.sampling_probability
            inner = event_to_json(event.event)
            return {"event": "poisson_sampled", "sampling_rate": rate, "of": inner}
        case dp.SampledWithoutReplacementDpEvent():
            return {
                "event": "sampled_without_replacement",
                "population": event.source_dataset_size,
                "cohort": event.sample_size,
                "of": event_to_json(event.event),
            }
        case dp.RandomizedResponseDpEvent():
            chance, labels = event.noise_parameter, event.num_buckets
            return {"event": "randomised_response", "at_random": chance, "labels": labels}
        case dp.ComposedDpEvent():
            return {"event": "composed", "of": [event_to_json(part) for part in event.events]}
    raise PrivacyError(f"no way to write a {type(event).__name__} to a ledger")


def event_from_json(data: dict[str, Any]) -> DpEvent:
    """The event that `event_to_json` wrote.

    Raises:
        PrivacyError: the data names an event of an unknown kind.
    """
    import dp_accounting as dp

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

    fields = {name: value for name, value in data.items() if name != "event"}
    match data.get("event"):
        case "gaussian":
            return dp.GaussianDpEvent(float(data["noise_multiplier"]))
        case "discrete_gaussian_sum":
            return DiscreteGaussianSum(**fields)
        case "skellam_sum":
            return SkellamSum(**fields)
        case "poisson_sampled":
            of = event_from_json(data["of"])
            return dp.PoissonSampledDpEvent(float(data["sampling_rate"]), of)
        case "sampled_without_replacement":
            of = event_from_json(data["of"])
            sizes = int(data["population"]), int(data["cohort"])
            return dp.SampledWithoutReplacementDpEvent(*sizes, of)
        case "randomised_response":
            return dp.RandomizedResponseDpEvent(float(data["at_random"]), int(data["labels"]))
        case "composed":
            return dp.ComposedDpEvent(tuple(event_from_json(part) for part in data["of"]))
        case unknown:
            raise PrivacyError(f"the ledger holds an event of unknown kind {unknown!r}")


def event_in_words(event: DpEvent) -> str:
    """The event as a person would say it."""
    import dp_accounting as dp

    from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum

    match event:
        case dp.GaussianDpEvent():
            return f"Gaussian, noise multiplier {event.noise_multiplier:g}"
        case DiscreteGaussianSum():
            return (
                f"discrete Gaussian noise of {event.summands} clients, sigma "
                f"{event.local_sigma:g} each, on a grid where a client's norm is {event.l2:g}"
            )
        case SkellamSum():
            return (
                f"Skellam noise of variance {event.variance:g}, "
                f"on a grid where a client's norm is {event.l2:g}"
            )
        case dp.PoissonSampledDpEvent():
            inner = event_in_words(event.event)
            return f"Poisson sampling at rate {event.sampling_probability:g} of {inner}"
        case dp.SampledWithoutReplacementDpEvent():
            inner = event_in_words(event.event)
            return f"{event.sample_size} of {event.source_dataset_size}, drawn at once, of {inner}"
        case dp.RandomizedResponseDpEvent():
            kept, other = answers(event)
            return (
                f"randomised response among {event.num_buckets} labels, epsilon "
                f"{math.log(kept / other):g}"
            )
        case dp.ComposedDpEvent():
            return " and ".join(event_in_words(part) for part in event.events)
    return repr(event)
