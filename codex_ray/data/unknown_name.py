"""The end of an error message about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

SHOWN = 30


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The known name nearest to `name` as a question, or, when none is near, the known names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    if not known:
        return "there are none"
    rest = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"known are {', '.join(known[:SHOWN])}{rest}"
