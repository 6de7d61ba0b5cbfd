"""The report: one page for people, with table, picture and every assumption, in one file."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from io import BytesIO
from string import Template
from typing import Any

from rich.table import Table

from codex_ray.records.console import MANY, client_table, closing_table, facts, verdict
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory, write_atomically

PAGE = Template("""<!doctype html>
<meta charset="utf-8">
<title>$name</title>
<style>
body {font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em}
table {border-collapse: collapse; margin: 1em 0}
td, th {padding: .25em .9em; text-align: right; border-bottom: 1px solid #ddd}
td:first-child, th:first-child {text-align: left}
img {max-width: 100%}
</style>
<h1>$question</h1>
<p>$verdict</p>
$closing
<img alt="accuracy alone, together and by round; epsilon" src="data:image/png;base64,$image">
$facts
$clients
<h2>What epsilon rests on</h2>
<ul>$assumptions</ul>
<h2>How it was accounted</h2>
<ul>$accounting</ul>
<p>The baselines were trained without privacy on data that no single party would hold; they are part
of the simulation and outside the guarantee.</p>
""")
BLUE, ORANGE, GREY = "#1b6ca8", "#d9822b", "#666666"


def write_report(directory: RunDirectory, result: RunResult) -> None:
    """Writes report.html and report.png from what the run directory holds."""
    lines = [json.loads(line) for line in directory.rounds.read_text().splitlines()]
    picture = draw(result, lines)
    write_atomically(directory.picture, picture)
    write_atomically(directory.report, _page(result, picture).encode())


def draw(result: RunResult, lines: list[dict[str, Any]]) -> bytes:
    """A PNG: everyone alone against together, accuracy by round, and what was spent."""
    alone = 0 < len(result.alone) <= MANY
    from matplotlib.figure import Figure  # slow to import, and only a run that has ended draws

    figure = Figure(figsize=(13 if alone else 10, 3.8), layout="constrained")
    axes = figure.subplots(1, 3 if alone else 2)
    if alone:
        _draw_alone(axes[0], result)
    _draw_rounds(axes[-2], result, lines)
    _draw_privacy(axes[-1], result, lines)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_alone(axes: Any, result: RunResult) -> None:
    """Each client's accuracy alone as a bar, below the line that all reach together."""
    accuracy = [metrics["accuracy"] for metrics in result.alone]
    axes.bar(range(len(accuracy)), accuracy, color="#c9c9c9")
    axes.axhline(result.metrics["accuracy"], color=BLUE, lw=2, label="together, private")
    pooled = result.baselines["pooled"]["accuracy"]
    axes.axhline(pooled, color=GREY, ls="--", label="records pooled, no privacy")
    axes.set(title="Alone and together", xlabel="client", ylabel="test accuracy", ylim=(0, 1.18))
    axes.set_xticks(range(len(accuracy)))
    axes.legend(loc="upper center", frameon=False, fontsize=8, ncols=2)


def _draw_rounds(axes: Any, result: RunResult, lines: list[dict[str, Any]]) -> None:
    """Test accuracy after each evaluated round."""
    from matplotlib.ticker import MaxNLocator

    tested = [line for line in lines if "accuracy" in line["metrics"]]
    points = [(line["round"] + 1, line["metrics"]["accuracy"]) for line in tested]
    if points:
        axes.plot(*zip(*points, strict=True), color=BLUE, lw=2)
    axes.set(title="Learning", xlabel="round", ylabel="test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_privacy(axes: Any, result: RunResult, lines: list[dict[str, Any]]) -> None:
    """Epsilon of each client as a bar, or, where one number is everyone's, over the rounds."""
    by_client = [spend for spend in result.privacy if spend["client"] is not None]
    axes.set(title="Privacy spent")
    if 0 < len(by_client) <= MANY:
        names = [str(spend["client"]) for spend in by_client]
        axes.bar(names, [float(spend["epsilon"]) for spend in by_client], color=ORANGE)
        axes.set(xlabel="client", ylabel=f"epsilon of a {by_client[0]['unit']}")
        return
    for unit in sorted({unit for line in lines for unit in line["epsilon"]}):
        points = [(line["round"] + 1, line["epsilon"].get(unit)) for line in lines]
        known = [point for point in points if point[1] is not None]
        axes.plot(*zip(*known, strict=True), lw=2, label=f"of a {unit.replace('_', ' ')}")
    axes.set(xlabel="round", ylabel="epsilon")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _page(result: RunResult, picture: bytes) -> str:
    """The report as one HTML file that needs nothing beside it."""
    accounting = dict.fromkeys(
        f"{s['unit']}-level, {s['neighbouring_relation']}, {s['accountant']}: {s['sampling']}"
        for s in result.privacy
    )
    per_client = client_table(result)
    return PAGE.substitute(
        name=html.escape(result.name),
        question=html.escape(result.question or result.name),
        verdict=html.escape(verdict(result)),
        closing=_html_table(closing_table(result)),
        image=base64.b64encode(picture).decode(),
        facts=f"<table>{''.join(_row(pair) for pair in facts(result))}</table>",
        clients="" if per_client is None else f"<h2>Each client</h2>{_html_table(per_client)}",
        assumptions=_items(text for spend in result.privacy for text in spend["assumptions"]),
        accounting=_items(list(accounting)[:MANY]),
    )


def _items(texts: Iterable[str]) -> str:
    """Each different text as a list item, in the order of their first appearance."""
    return "".join(f"<li>{html.escape(text)}</li>" for text in dict.fromkeys(texts))


def _row(cells: Iterable[object], *, tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"


def _html_table(table: Table) -> str:
    """A rich table as HTML."""
    head = _row((column.header for column in table.columns), tag="th")
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return f"<table>{head}{''.join(_row(row) for row in rows)}</table>"
