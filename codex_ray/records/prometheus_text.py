"""Figures in the text format that Prometheus reads (exposition format 0.0.4).

The format is three kinds of lines. Writing them here costs a run nothing; the client library takes
a tenth of a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Series:
    """A name that figures have in common.

    Attributes:
        name: of the metric; that of a counter ends in `_total`.
        kind: a counter only grows, but for starting over; a gauge is as it is.
        help: what it is, in a line; the same in every run, as Prometheus wants it.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str


@dataclass(frozen=True)
class Sample:
    """One figure of a series, and the labels that tell it from the others."""

    value: float
    labels: Mapping[str, str]


def to_text(figures: Iterable[tuple[Series, Iterable[Sample]]]) -> bytes:
    """Every series that has a figure, with HELP and TYPE before its figures."""
    lines = []
    for series, samples in figures:
        found = [f"{series.name}{_labels(it.labels)} {_number(it.value)}" for it in samples]
        if found:
            lines += [
                f"# HELP {series.name} {_escaped(series.help)}",
                f"# TYPE {series.name} {series.kind}",
                *found,
            ]
    return "".join(line + "\n" for line in lines).encode()


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = []
    for name, value in labels.items():
        quoted = _escaped(value).replace('"', r"\"")
        pairs.append(f'{name}="{quoted}"')
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
