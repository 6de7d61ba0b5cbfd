"""The clip-and-noise kernel against Opacus, against itself cut otherwise, and on several hosts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from codex_ray.api import run
from codex_ray.bench.bars import Figure, Row, at_most, fewer
from codex_ray.bench.small_runs import HOSPITALS
from codex_ray.learning.kernel_agreement import MODELS, Agreement, agreement
from codex_ray.randomness import Randomness

Floats = npt.NDArray[np.float64]

AGAINST_OPACUS: Final = 2e-5
AGAINST_ITSELF: Final = 1e-6
EXAMPLES: Final = 250
SEEDS: Final = 5
HOSTS: Final = (3,)


def kernel(scale: float) -> Iterator[Row]:
    """Two rows, of the largest relative distances over all models and seeds."""
    examples, seeds = fewer(EXAMPLES, scale, least=70), fewer(SEEDS, scale, least=1)
    found: list[tuple[str, Agreement]] = []
    for seed in range(seeds):
        streams = Randomness.of(seed).public.child("kernel")
        found += [(name, agreement(name, streams, examples=examples)) for name in MODELS]
    words = f"{len(MODELS)} models, {examples} examples, {seeds} seeds"
    yield _row(
        "clip and noise against Opacus",
        found,
        {"hooks": "hooks", "ghost": "ghost clipping", "update": "3 noised steps"},
        AGAINST_OPACUS,
        words,
    )
    yield _row(
        "clip and noise, cut otherwise",
        found,
        {"padded": "padded chunks", "cut": "batch in pieces"},
        AGAINST_ITSELF,
        words,
    )


def _row(
    name: str,
    found: list[tuple[str, Agreement]],
    fields: dict[str, str],
    bar: float,
    words: str,
) -> Row:
    figures: list[Figure] = []
    for model in MODELS:
        for field, what in fields.items():
            worst = max(getattr(one, field) for of, one in found if of == model)
            figures.append(at_most(f"{what}, {model}", worst, bar))
    farthest = max(figures, key=lambda one: one.value)
    said = f"off by up to {farthest.value:.1e} ({farthest.what})"
    return Row(name, said, f"{bar:g} relative ({words})", tuple(figures))


def hosts(scale: float) -> Iterator[Row]:
    """A row: the model of a run on Ray hosts against that of the same run in this process."""
    from safetensors.numpy import load_file

    from codex_ray.cluster.session import ray_session

    def parameters(on: int, folder: str) -> Floats:
        result = run(HOSPITALS, {"cluster.hosts": on}, out=Path(folder) / f"{on}")
        parts = load_file(Path(result.directory) / "model.safetensors")
        return np.concatenate([parts[name].ravel() for name in sorted(parts)]).astype(np.float64)

    with tempfile.TemporaryDirectory() as folder:
        here = parameters(0, folder)
        with ray_session("local"):
            there = {on: parameters(on, folder) for on in HOSTS}
    figures = tuple(
        at_most(
            f"{on} hosts",
            float(np.linalg.norm(model - here) / np.linalg.norm(here)),
            AGAINST_ITSELF,
        )
        for on, model in there.items()
    )
    worst = max(one.value for one in figures)
    said = "the same to the bit" if worst == 0 else f"off by up to {worst:.1e}"
    bar = f"{AGAINST_ITSELF:g} relative (DP-SGD of {HOSPITALS['rounds']} rounds, hosts: {HOSTS})"
    yield Row("clip and noise on several hosts", said, bar, figures)
