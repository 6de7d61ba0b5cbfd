"""`codex-ray bench privacy`: what is claimed about privacy, against the bars that were set for it.

Epsilons and calibrations against published figures, the clip-and-noise kernel against Opacus, what
noise inside the sum and correlated noise do to a model, audits of sound and of broken builds, and
how fast whole-number noise is drawn. Every figure is measured when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from codex_ray.bench.bars import Row
from codex_ray.bench.privacy_accounts import accountants, calibrations
from codex_ray.bench.privacy_audits import estimates, honest
from codex_ray.bench.privacy_broken import broken
from codex_ray.bench.privacy_kernels import hosts, kernel
from codex_ray.bench.privacy_samplers import samplers
from codex_ray.bench.privacy_training import correlated, inside
from codex_ray.bench.processes import cpu_seconds
from codex_ray.bench.trust import trust
from codex_ray.experiment import single_thread

Part: TypeAlias = Callable[[float], Iterator[Row]]
"""Measures some rows, at full size or scaled down by a factor."""

PARTS: Final[Mapping[str, Part]] = {
    "accountants": accountants,
    "calibrations": calibrations,
    "kernel": kernel,
    "hosts": hosts,
    "noise-inside": inside,
    "correlated": correlated,
    "trust": trust,
    "audit-sound": honest,
    "audit-estimates": estimates,
    "audit-broken": broken,
    "samplers": samplers,
}
"""What to ask for by name."""


def bench(
    names: Iterable[str], *, scale: float = 1.0, watch: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """The rows of the named parts; `watch` sees each as it is done.

    Args:
        names: of PARTS.
        scale: below 1 for fewer seeds and repeats, to see that it works; bars may then be missed.
        watch: called with each row.
    """
    single_thread()
    rows = []
    for name in names:
        began = cpu_seconds()
        for row in PARTS[name](scale):
            now = cpu_seconds()
            rows.append(replace(row, seconds=max(0.0, now - began)))
            watch(rows[-1])
            began = now
    return rows


def write_json(rows: Iterable[Row], file: Path, *, scale: float = 1.0) -> None:
    """Writes every row with all its figures."""
    found = {"scale": scale, "rows": [row.to_json() for row in rows]}
    file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
