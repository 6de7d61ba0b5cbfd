"""The command that runs a trial again in full: on its own, and with real secure aggregation."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codex_ray.config import load_yaml
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.outcome import SweepResult, Trial

GPU = Path("/proc/driver/nvidia")
"""Is there where a run that may choose would choose a GPU; asking torch would import it."""
PROTOCOL = "federation.protocol"
SECURE = ("secagg", "secagg_plus", "one_shot")
"""Protocols under which the server sees no summand."""


def overrides_of(result: SweepResult, trial: Trial) -> dict[str, Any]:
    """What makes the full run of a trial of the sweep's base.

    A secure protocol that the trial itself chose stays; else the base's own is kept, or, where
    that shows summands or takes the sum on trust, secagg_plus is set.
    """
    base = load_yaml(SweepFolder(result.directory).base)
    chosen = _with_plan(result, trial, base) | trial.found | {"seed": trial.seed}
    if _kind(chosen) in SECURE:
        return chosen
    kept = {key: value for key, value in chosen.items() if not _is_protocol(key)}
    if _kind_of_base(base) in SECURE:
        return kept
    return kept | {f"{PROTOCOL}.kind": "secagg_plus"}


def command(result: SweepResult, trial: Trial) -> str:
    """`codex-ray run` with every override, ready for a shell."""
    words = ["codex-ray", "run", str(SweepFolder(result.directory).base)]
    for key, value in overrides_of(result, trial).items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def _with_plan(result: SweepResult, trial: Trial, base: Mapping[str, Any]) -> dict[str, Any]:
    """What the sweep and the trial set, and the plan, unless a run would find the same one."""
    description = result.description
    told = {key: value for key, value in description.set.items() if not _is_plan(key)}
    asked = "plan" in base or any(map(_is_plan, [*description.set, *trial.values]))
    if description.plan is not None and (asked or not _found_again(description.plan)):
        told["plan"] = description.plan
    return told | trial.values


def _is_plan(key: str) -> bool:
    return key.partition(".")[0] == "plan"


def _found_again(plan: Any) -> bool:
    """Whether a run that is told nothing of its plan computes the same, to the bit.

    On a CPU a stack of layers is always vectorised, and then how many clients are trained at a time
    changes no bit. Another module, whose kernel is chosen by the clock, has chunks of one client.
    """
    if not isinstance(plan, Mapping) or GPU.exists():
        return False
    kept = {name: plan.get(name) for name in ("kernel", "precision", "device")}
    vectorised = {"kernel": "vectorised", "precision": "float32", "device": "cpu"}
    return kept == vectorised and (plan.get("clients") or 1) > 1


def _is_protocol(key: str) -> bool:
    return key == PROTOCOL or key.startswith(f"{PROTOCOL}.")


def _kind(overrides: Mapping[str, Any]) -> Any:
    whole = overrides.get(PROTOCOL)
    inner = whole.get("kind") if isinstance(whole, Mapping) else None
    return overrides.get(f"{PROTOCOL}.kind", inner)


def _kind_of_base(base: Mapping[str, Any]) -> Any:
    inner: Any = base
    for name in PROTOCOL.split("."):
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    return inner.get("kind") if isinstance(inner, Mapping) else None
