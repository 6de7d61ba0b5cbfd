"""The report: one page for people, with table, picture and every assumption, in one file."""

from __future__ import annotations

import base64
import html
import json
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from codex_ray.records.console import client_table, closing_table, facts, verdict
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory, write_atomically

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .9em;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}img{max-width:100%}
"""


def write_report(directory: RunDirectory, result: RunResult) -> None:
    """Writes report.html and report.png from what the run directory holds."""
    lines = [json.loads(line) for line in directory.rounds.read_text().splitlines()]
    picture = draw(result, lines)
    write_atomically(directory.picture, picture)
    write_atomically(directory.report, _page(result, picture).encode())


def draw(result: RunResult, lines: list[dict[str, Any]]) -> bytes:
    """A PNG: test accuracy by round between the two baselines, and what each holder has spent."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    measured = [
        (int(line["round"]) + 1, line["metrics"]["accuracy"])
        for line in lines
        if "accuracy" in line["metrics"]
    ]
    if measured:
        left.plot(*zip(*measured, strict=True), color="#1b6ca8", lw=2, label="federated, private")
    for key, label, style in (
        ("pooled", "all records pooled, no privacy", "--"),
        ("alone", "a client alone (mean), no privacy", ":"),
    ):
        if "accuracy" in result.baselines.get(key, {}):
            left.axhline(result.baselines[key]["accuracy"], color="#666", ls=style, label=label)
    left.set(xlabel="round", ylabel="test accuracy")
    left.grid(alpha=0.3)
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="lower right", frameon=False)
    _draw_privacy(right, result, lines)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_privacy(axes: Any, result: RunResult, lines: list[dict[str, Any]]) -> None:
    """Epsilon of each client as a bar, or, for a client-level claim, over the rounds."""
    by_client = [spend for spend in result.privacy if spend["client"] is not None]
    if by_client and len(by_client) <= 40:
        names = [str(spend["client"]) for spend in by_client]
        axes.bar(names, [float(spend["epsilon"]) for spend in by_client], color="#d9822b")
        axes.set(xlabel="client", ylabel=f"epsilon of a {by_client[0]['unit']}")
        return
    for unit in {unit for line in lines for unit in line["epsilon"]}:
        points = [
            (int(line["round"]) + 1, line["epsilon"][unit])
            for line in lines
            if unit in line["epsilon"]
        ]
        axes.plot(*zip(*points, strict=True), color="#d9822b", lw=2)
        axes.set(xlabel="round", ylabel=f"epsilon of a {unit}")
    axes.grid(alpha=0.3)


def _page(result: RunResult, picture: bytes) -> str:
    """The report as one HTML file that needs nothing beside it."""
    tables = [_html_table(closing_table(result))]
    per_client = client_table(result)
    if per_client is not None:
        tables.append("<h2>Each client</h2>" + _html_table(per_client))
    rows = "".join(
        f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in facts(result)
    )
    assumptions = dict.fromkeys(text for spend in result.privacy for text in spend["assumptions"])
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in assumptions)
    accountants = dict.fromkeys(
        f"{s['unit']}-level, {s['neighbouring_relation']}, {s['accountant']}: {s['sampling']}"
        for s in result.privacy
    )
    how = "".join(f"<li>{html.escape(text)}</li>" for text in list(accountants)[:20])
    image = base64.b64encode(picture).decode()
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(result.name)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(result.question or result.name)}</h1>"
        f"<p>{html.escape(verdict(result))}</p>"
        f'{tables[0]}<img alt="accuracy and epsilon" src="data:image/png;base64,{image}">'
        f"<table>{rows}</table>{''.join(tables[1:])}"
        f"<h2>What epsilon rests on</h2><ul>{notes}</ul><h2>How it was accounted</h2><ul>{how}</ul>"
        "<p>The baselines were trained without privacy on data that no single party would hold; "
        "they are "
        "part of the simulation and outside the guarantee.</p>"
    )


def _html_table(table: Table) -> str:
    """A rich table as HTML."""
    columns = table.columns
    head = "".join(f"<th>{html.escape(str(column.header))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in zip(*(column.cells for column in columns), strict=True)
    )
    return f"<table><tr>{head}</tr>{body}</table>"
