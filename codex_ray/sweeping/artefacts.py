"""The files that a sweep leaves: sweep.csv, sweep.json, frontier.png and heatmap.png."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

import numpy as np

from codex_ray.records.frontier import Point, draw_frontier
from codex_ray.records.heatmap import draw_heatmap
from codex_ray.records.run_directory import to_json_bytes, write_atomically
from codex_ray.sweeping.outcome import SweepResult
from codex_ray.sweeping.rerun import command

NAMES = ("sweep.csv", "sweep.json", "frontier.png", "heatmap.png")


def write_artefacts(result: SweepResult) -> list[str]:
    """Writes what there is to be written; the names of the files."""
    made = {"sweep.csv": as_csv(result), "sweep.json": to_json_bytes(as_json(result))}
    points, description = result.points, result.description
    title = description.question or description.name
    said: dict[str, Any] = {"metric": description.metric, "goal": description.goal}
    if any(np.isfinite(point.epsilon) for point in points):
        made["frontier.png"] = draw_frontier(
            points, title=title, note=result.statement, reference=result.reference, **said
        )
    pair = axes_of(result)
    if pair is not None and points:
        made["heatmap.png"] = draw_heatmap(
            points, across=pair[0], down=pair[1], title=title, note=result.statement, **said
        )
    for name, content in made.items():
        write_atomically(result.directory / name, content)
    return list(made)


def as_csv(result: SweepResult) -> bytes:
    """One row for each trial, under `result.columns`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, result.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows())
    return text.getvalue().encode()


def as_json(result: SweepResult) -> dict[str, Any]:
    """Trials, points, frontier, the treatment of the choice, and the command for each winner."""
    frontier = result.frontier
    best = result.best
    return {
        "description": result.description.model_dump(mode="json"),
        "selection": {
            "statement": result.statement,
            "costs": [asdict(cost) for cost in result.costs],
        },
        "trials": [trial.to_json() for trial in result.trials],
        "points": [
            _point(point) | {"beaten_by": _label(result.beaten_by(point))}
            for point in result.points
        ],
        "frontier": [
            _point(point) | {"command": command(result, result.trial_of(point))}
            for point in frontier
        ],
        "reference": None if result.reference is None else _point(result.reference),
        "best": None if best is None else best.to_json() | {"command": command(result, best)},
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "values": dict(point.values),
        "epsilon": point.epsilon,
        "score": point.score,
        "standard_error": point.error,
    }


def _label(point: Point | None) -> str | None:
    return None if point is None else point.label


def axes_of(result: SweepResult) -> tuple[str, str] | None:
    """The two keys of the heat map: noise (or epsilon) and clip norm where they vary.

    Otherwise the first two keys whose values are numbers; None where there are no two.
    """
    points = result.points
    keys = [
        key
        for key in result.description.keys
        if len({repr(point.values.get(key)) for point in points}) > 1
        and all(isinstance(point.values.get(key), (int, float)) for point in points)
    ]
    if len(keys) < 2:
        return None
    noise = [key for key in keys if key.endswith((".noise_multiplier", ".epsilon"))]
    clip = [key for key in keys if key.endswith(".clip_norm")]
    first = (noise or [key for key in keys if key not in clip] or keys)[0]
    second = ([key for key in clip if key != first] or [key for key in keys if key != first])[0]
    return first, second
