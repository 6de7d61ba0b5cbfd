"""What a person sees while a run goes on, and when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from codex_ray.federation.state import RoundResult
from codex_ray.records.result import RunResult

MANY = 40
"""More clients than this are not shown one by one."""


def in_words(result: RoundResult) -> str:
    """The round in a line: accuracy and epsilon so far, survivors."""
    names = [name for name in ("accuracy", "auc") if name in result.metrics]
    parts = [f"{name} {result.metrics[name]:.3f}" for name in names]
    parts += [
        f"epsilon {value:.2f} a {unit.replace('_', ' ')}" for unit, value in result.epsilon.items()
    ]
    parts.append(f"{result.survivors}/{result.cohort} survive")
    if result.aborted:
        parts.append(f"no sum: {result.aborted}")
    return ", ".join(parts)


class Progressing:
    """A live bar on a terminal, a line a round elsewhere."""

    def __init__(self, console: Console, *, done: int, rounds: int) -> None:
        self._console = console
        self._done = done
        self._rounds = rounds
        self._clients = 0
        self._shown = ""
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[words]}", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=rounds, completed=done, words="waiting for hosts")

    def round(self, result: RoundResult) -> None:
        """Shows the round."""
        self._clients += result.cohort
        rate = self._clients / max(1e-9, time.monotonic() - self._started)
        words = f"{in_words(result)}, {rate:.0f} clients/s"
        self._bar.update(self._task, completed=result.round + 1, words=self._in_short(result, rate))
        if not self._console.is_terminal:
            print(
                f"round {result.round + 1}/{self._rounds}: {words}",
                file=self._console.file,
                flush=True,
            )

    def _in_short(self, result: RoundResult, rate: float) -> str:
        """What fits beside the bar on 80 columns; figures stay until the next ones."""
        if "accuracy" in result.metrics:
            self._shown = f"acc {result.metrics['accuracy']:.3f}"
            self._shown += "".join(f" eps {value:.2f}" for value in result.epsilon.values())
        return f"{self._shown} {result.survivors}/{result.cohort} {rate:.0f} clients/s".strip()

    def ready(self) -> None:
        """Notes that hosts are up: time counts from here."""
        self._started = time.monotonic()
        self._bar.reset(self._task, completed=self._done, words="training")
        if not self._console.is_terminal:
            print("hosts are ready", file=self._console.file, flush=True)

    @contextmanager
    def shown(self) -> Iterator[Progressing]:
        """Keeps the bar on the screen for the block."""
        with self._bar:
            yield self


def verdict(result: RunResult) -> str:
    """The question's answer in a sentence: together against alone and against everything pooled."""
    found = [f"Together {result.metrics.get('accuracy', float('nan')):.3f}"]
    if "alone" in result.baselines:
        alone, worst = result.baselines["alone"], result.baselines["alone_worst"]
        found.append(f"alone {alone['accuracy']:.3f} on average ({worst['accuracy']:.3f} at worst)")
    if "pooled" in result.baselines:
        pooled = result.baselines["pooled"]["accuracy"]
        found.append(f"with all records handed over {pooled:.3f}")
    return "; ".join(found) + f". Privacy: {privacy_in_words(result)}."


def closing_table(result: RunResult) -> Table:
    """The table that a run ends with: against training alone and pooled, and the price of each."""
    table = Table(title=result.question or result.name, title_justify="left", show_edge=False)
    table.add_column("")
    for heading in ("accuracy", "AUC", "epsilon"):
        table.add_column(heading, justify="right")
    for name, metrics, privacy in _rows(result):
        table.add_row(
            name,
            f"{metrics['accuracy']:.3f}" if "accuracy" in metrics else "-",
            f"{metrics['auc']:.3f}" if "auc" in metrics else "-",
            privacy,
        )
    return table


def _rows(result: RunResult) -> Iterator[tuple[str, dict[str, float], str]]:
    labels = {
        "alone_worst": "a client alone, at worst",
        "alone": "a client alone, on average",
    }
    for key, label in labels.items():
        if key in result.baselines:
            yield label, result.baselines[key], "shares nothing"
    price = f"{result.epsilon:.2f}" if result.privacy else "no claim"
    if result.extrapolated is not None:
        price += f" (extrapolated {result.extrapolated['epsilon']:.2f})"
    yield f"federated ({result.protocol})", result.metrics, price
    if "pooled" in result.baselines:
        yield "all records pooled", result.baselines["pooled"], "no privacy"


def privacy_in_words(result: RunResult) -> str:
    """The largest spend of each unit, such as "epsilon <= 2.91 a record, delta 1e-05"."""
    claims = dict.fromkeys((spend["unit"], _claim_of(spend)) for spend in result.privacy)
    units = [unit for unit, _ in claims]
    parts = []
    for unit, claim in claims:
        spends = [s for s in result.privacy if (s["unit"], _claim_of(s)) == (unit, claim)]
        most = max(float(spend["epsilon"]) for spend in spends)
        name = f" ({claim})" if units.count(unit) > 1 else ""
        parts.append(f"epsilon <= {most:.2f} a {unit}{name}, delta {spends[0]['delta']:g}")
    if result.extrapolated is not None:
        larger = result.extrapolated
        parts.append(f"extrapolated epsilon {larger['epsilon']:.2f}, {larger['words']}")
    return "; ".join(parts) or "no claim"


def _claim_of(spend: dict[str, Any]) -> str:
    """Against whom a spend is stated, such as "claim U4 covers the server ..."."""
    return next((said for said in spend["assumptions"] if said.startswith("claim ")), "")


def facts(result: RunResult) -> list[tuple[str, str]]:
    """The rest of what a reader wants to know, as (what, how much)."""
    audit = [("audit", audit_in_words(result.audit))] if result.audit else []
    wraps = []
    if result.wrap_probability:
        chance = f"{result.wrap_probability:.1e} that any coordinate of a round does"
        wraps = [("wraps around", chance)]
    field = []
    if result.field_seconds is not None:
        field = [("seconds in the field", f"{result.field_seconds:,.1f}, without the server's own")]
    return [
        ("rounds", _rounds_in_words(result)),
        ("updates", result.protection),
        (
            "dropouts survived",
            f"{result.dropped_total} (pair masks rebuilt: {result.masks_recovered})",
        ),
        (
            "bytes each client sent",
            f"{result.bytes_up_per_client:,} (mean of {result.clients})",
        ),
        ("seconds in rounds", f"{result.seconds:.1f}"),
        *field,
        ("randomness", result.randomness.split(";")[0].split(",")[0]),
        ("model", f"sha256 {result.model_sha256[:16]}"),
        *wraps,
        *audit,
        *[("OPEN TO STRANGERS", what) for what in result.overlooked],
    ]


def audit_in_words(verdicts: list[dict[str, Any]]) -> str:
    """How many verdicts failed, and the first that did."""
    failed = [verdict for verdict in verdicts if not verdict["passed"]]
    if failed:
        return f"FAILED {len(failed)} of {len(verdicts)}: {failed[0]['words']}"
    return f"{len(verdicts)} of {len(verdicts)} passed"


def _rounds_in_words(result: RunResult) -> str:
    said = f"{result.rounds} of {result.rounds_planned}"
    if result.stopped == "budget":
        said += ", stopped by the privacy budget"
    if result.rounds_aborted:
        said += f", {result.rounds_aborted} without a sum"
    return said


def client_table(result: RunResult) -> Table | None:
    """What each client spent, sent and reaches alone; None when they are many."""
    spends = [spend for spend in result.privacy if spend["client"] is not None]
    if not spends or len(spends) > MANY:
        return None
    alone = {client: metrics["accuracy"] for client, metrics in enumerate(result.alone)}
    table = Table(show_edge=False)
    headings = ("client", "accuracy alone", "epsilon", "noised steps released", "bytes sent")
    for heading in headings:
        table.add_column(heading, justify="right")
    for spend in spends:
        client = int(spend["client"])
        table.add_row(
            str(client),
            f"{alone[client]:.3f}" if client in alone else "-",
            f"{float(spend['epsilon']):.3f}",
            str(spend["releases"]),
            f"{result.bytes_up.get(client, 0):,}",
        )
    return table
