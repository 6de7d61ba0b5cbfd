"""A verdict: what was claimed, what was found, and whether the finding contradicts the claim."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from codex_ray.privacy.empirical_bounds import (
    Inside,
    Method,
    Scores,
    highest_bound,
    lower_bound,
)

Kind = Literal["lower bound", "estimate", "check"]


@dataclass(frozen=True)
class Verdict:
    """One line of an audit.

    Attributes:
        name: what was looked at.
        kind: a lower bound and a check can fail a run; an estimate never does.
        claimed: the value that the run's own account gives.
        found: the value that the audit measured.
        low, high: for a bound, what it shows at least and what it could have shown at most; for an
            estimate, its confidence interval; for a check, the range in which the value of a sound
            build lies.
        passed: False only where the finding contradicts the claim.
        words: a sentence for a person.
    """

    name: str
    kind: Kind
    claimed: float
    found: float
    low: float
    high: float
    passed: bool
    words: str

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain data; a number that JSON cannot write becomes text ("inf")."""
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


METHOD_WORDS = {
    "f_dp": "one run, f-DP with a Gaussian curve (arXiv:2410.22235)",
    "one_run": "one run, any mechanism (arXiv:2305.08846)",
}


def bound_verdict(
    name: str,
    scores: Scores,
    inside: Inside,
    *,
    claimed: float,
    delta: float,
    method: Method = "f_dp",
    confidence: float = 0.95,
) -> Verdict:
    """Whether the scores [m] of canaries that were in or out by coins refute the claimed epsilon.

    It fails only if the lower bound at this confidence lies above the claim. `high` is the bound
    that a perfect attacker would have had: claims above it cannot be refuted by so many canaries.
    """
    found = lower_bound(scores, inside, delta=delta, method=method, confidence=confidence)
    most = highest_bound(len(scores), delta=delta, method=method, confidence=confidence)
    passed = found <= claimed
    words = (
        f"{name}: epsilon is at least {found:.2f} at {confidence:.0%} confidence"
        f" ({METHOD_WORDS[method]}, {len(scores)} canaries, delta {delta:g}), "
        + (f"which {'allows' if passed else 'REFUTES'} the claim of {claimed:.2f}")
    )
    if passed and claimed >= most:
        words += f"; so few canaries could not have shown more than {most:.2f}"
    return Verdict(name, "lower bound", claimed, found, found, most, passed, words)
