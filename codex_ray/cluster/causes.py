"""What became of an actor, in the words of this project's own errors."""

from __future__ import annotations

from ray.exceptions import RayError, RayTaskError

from codex_ray.errors import ClusterError, CodexRayError, HostLost


def cause_of(error: RayError) -> CodexRayError:
    """The error that an actor raised on purpose, or one that says in a line what became of it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CodexRayError):
        return cause
    if isinstance(error, CodexRayError):
        return error
    last = (str(cause or error).strip().splitlines() or [type(error).__name__])[-1]
    if isinstance(error, RayTaskError):
        return ClusterError(f"an actor failed: {type(cause or error).__name__}: {last}")
    # What Ray says after the first sentence is advice for any process that ended without a reason.
    return HostLost(f"{type(error).__name__}: {last.split('. ')[0].rstrip('.')}")
