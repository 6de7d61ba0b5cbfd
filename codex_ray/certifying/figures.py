"""By whose figures the features of a run were scaled, as its certificate and its result say it."""

from __future__ import annotations

from typing import Final

from codex_ray.certifying.terms import Terms
from codex_ray.data.prepared import PreparedData
from codex_ray.data.preparing import Prepare
from codex_ray.figures import release_of
from codex_ray.records.canonical import digest, plain
from codex_ray.records.certificate import FiguresSpent, Preparation, Source

IMPUTED: Final = {
    None: "",
    "middle": "; the middle of its public range stands for a missing number",
    "mean": "; the mean by the same figures stands for a missing number",
    "median": "; the median by the same figures stands for a missing number",
}


GENERALISED: Final = (
    "generalised columns are features, and their intervals and groups were chosen from each "
    "client's records without noise: one record more can move them in many others"
)


def preparation(terms: Terms) -> Preparation | None:
    """Where the figures came from and what they cost; None for data that have no such numbers."""
    experiment, asked = terms.experiment, terms.experiment.preparation
    data = experiment.data
    if not hasattr(data, "ranges") and not isinstance(data, PreparedData):
        return None
    found = asked.statistics
    return Preparation(
        source=_source(asked),
        words=_words(terms, asked) + IMPUTED[asked.imputation] + _generalised(terms, asked),
        figures=None if found is None else digest(plain(found.model_dump())),
        spent=tuple(_spent(terms, asked)),
        data_card=data.card if isinstance(data, PreparedData) else None,
        data_manifest=data.manifest if isinstance(data, PreparedData) else None,
    )


def _source(asked: Prepare) -> Source:
    noised = asked.noise_multiplier is not None
    match asked.scaling:
        case "fixed":
            return "fixed public constants"
        case "pooled":
            return "securely pooled with DP" if noised else "securely pooled"
    return "per client with DP" if noised else "per client"


def _generalised(terms: Terms, asked: Prepare) -> str:
    """What is to be said of columns whose intervals and groups were chosen from records."""
    if not isinstance(terms.experiment.data, PreparedData):
        return ""
    if asked.insecure_generalised:
        return f"; INSECURE: {GENERALISED}"
    if any(charge.claim.unit == "record" for charge in terms.charges):
        return "; no generalised column is a feature"
    return "; where a generalised column is a feature, its client chose the intervals or groups"


def _words(terms: Terms, asked: Prepare) -> str:
    if asked.scaling == "fixed":
        return "numbers are scaled to [-1, 1] by public ranges; nothing was computed from records"
    figures = "means and standard deviations" if asked.by == "moments" else "quartiles"
    protocol = terms.experiment.federation.protocol
    if asked.scaling == "pooled":
        words = f"{figures} of all clients' training records, by {protocol.kind}: "
        words += protocol.protection
    else:
        words = f"{figures} of each client's own training records"
    if asked.noise_multiplier is None:
        never = "no noise" if asked.scaling == "pooled" else "they never leave it"
        return f"{words}; {never}"
    release = release_of(terms.experiment, terms.population)
    by = "each client noises its own" if release.noised_by_owner else "by the run's own mechanism"
    return (
        f"{words}; released once, before round 0, with a noise multiplier of "
        f"{asked.noise_multiplier:g} on a norm of {release.sketch.norm:.4g} ({by}; one "
        f"{release.unit} more or less)"
    )


def _spent(terms: Terms, asked: Prepare) -> list[FiguresSpent]:
    if asked.noise_multiplier is None:
        return []
    return [
        FiguresSpent(
            claim=charge.claim.name,
            unit=charge.claim.unit,
            epsilon=ledger.largest(),
            delta=ledger.delta,
        )
        for charge, ledger in zip(terms.charges, terms.fresh_ledgers(), strict=True)
    ]
