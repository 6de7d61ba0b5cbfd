"""Rounds as an observer is told of them."""

from __future__ import annotations

from typing import Any

from codex_ray.federation.state import RoundResult


def told(number: int, **other: Any) -> RoundResult:
    """Round `number`: eight of ten survive, evaluated, nothing out of the ordinary."""
    return RoundResult(
        **{
            "round": number,
            "attempts": 1,
            "cohort": 10,
            "survivors": 8,
            "dropped": {"masked_input": 1, "unmask": 1},
            "aborted": None,
            "masks_recovered": 9,
            "bytes_up": {"total": 1000, "largest": 100},
            "seconds": {"train": 0.25, "sum": 0.125, "evaluate": 0.125},
            "epsilon": {"client": 0.5 + number},
            "metrics": {"accuracy": 0.75},
            "debug": {},
            "privacy": {"signal_to_noise": 0.1},
            "field_seconds": {"train": 30.0, "unmask": 2.0},
            "charged": [{"survivors": 8, "clients": 8, "members": list(range(8))}],
        }
        | other
    )
