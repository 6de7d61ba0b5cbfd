"""Privacy events as plain data: how a ledger is written to and read from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codex_ray.errors import PrivacyError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def flatten(event: DpEvent) -> tuple[DpEvent, int]:
    """(inner, count) without self-composition, so that equal events group in a ledger."""
    import dp_accounting  # slow to import, and hosts never account

    count = 1
    while isinstance(event, dp_accounting.SelfComposedDpEvent):
        count *= event.count
        event = event.event
    return event, count


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """The event as plain data.

    Raises:
        PrivacyError: an event of a kind that no mechanism here emits.
    """
    import dp_accounting

    if isinstance(event, dp_accounting.GaussianDpEvent):
        return {"event": "gaussian", "noise_multiplier": event.noise_multiplier}
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return {
            "event": "poisson_sampled",
            "sampling_rate": event.sampling_probability,
            "of": event_to_json(event.event),
        }
    raise PrivacyError(f"no way to write a {type(event).__name__} to a ledger")


def event_from_json(data: dict[str, Any]) -> DpEvent:
    """The event that `event_to_json` wrote.

    Raises:
        PrivacyError: the data names an event of an unknown kind.
    """
    import dp_accounting

    match data.get("event"):
        case "gaussian":
            return dp_accounting.GaussianDpEvent(float(data["noise_multiplier"]))
        case "poisson_sampled":
            return dp_accounting.PoissonSampledDpEvent(
                float(data["sampling_rate"]), event_from_json(data["of"])
            )
        case unknown:
            raise PrivacyError(f"the ledger holds an event of unknown kind {unknown!r}")


def event_in_words(event: DpEvent) -> str:
    """The event as a person would say it."""
    import dp_accounting

    if isinstance(event, dp_accounting.GaussianDpEvent):
        return f"Gaussian, noise multiplier {event.noise_multiplier:g}"
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        inner = event_in_words(event.event)
        return f"Poisson sampling at rate {event.sampling_probability:g} of {inner}"
    return repr(event)
