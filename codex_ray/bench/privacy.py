"""`codex-ray bench privacy`: what is claimed about privacy, against the bars that were set for it.

Epsilons and calibrations against published figures, the clip-and-noise kernel against Opacus, what
noise inside the sum and correlated noise do to a model, audits of sound and of broken builds, and
how fast whole-number noise is drawn. Every figure is measured when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codex_ray.bench.parts import Part
from codex_ray.bench.privacy_accounts import accountants, calibrations
from codex_ray.bench.privacy_audits import estimates, honest
from codex_ray.bench.privacy_broken import broken
from codex_ray.bench.privacy_kernels import hosts, kernel
from codex_ray.bench.privacy_samplers import samplers
from codex_ray.bench.privacy_training import correlated, inside
from codex_ray.bench.trust import trust

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
