"""How versions look on a terminal, and the same as plain data for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from codex_ray.registry.differences import Differences, Moved, Pair
from codex_ray.registry.manifest import Manifest
from codex_ray.registry.served import ServedModel
from codex_ray.registry.states import Version

COLOURS = {"promoted": "green", "registered": "cyan", "superseded": "dim", "revoked": "red"}
Listed = Sequence[tuple[Version, Manifest]]


def versions_table(listed: Listed) -> Table:
    """A row for each version."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("stage", overflow="fold")
    table.add_column("epsilon", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column("parent", justify="right", no_wrap=True)
    table.add_column("registered", no_wrap=True)
    table.add_column("unsafe", overflow="fold", style="red")
    for version, manifest in listed:
        table.add_row(
            version.label,
            Text(version.state, style=COLOURS[version.state]),
            ", ".join(version.stages) or "-",
            epsilon_in_words(manifest),
            metrics_in_words(manifest, most=1),
            "-" if manifest.parent is None else str(manifest.parent),
            version.registered,
            ", ".join(unsafe_in_short(version, manifest)),
        )
    return table


def versions_json(listed: Listed) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "versions": [
            asdict(version) | {"manifest": manifest.to_json()} for version, manifest in listed
        ]
    }


def epsilon_in_words(manifest: Manifest) -> str:
    """The claims in short."""
    if manifest.uncertified is not None:
        return "no certificate"
    said = [f"{float(c.epsilon):.3g} a {c.unit} ({c.claim})" for c in manifest.privacy]
    return ", ".join(said) or "no claim"


def metrics_in_words(manifest: Manifest, *, most: int) -> str:
    """The first few metrics."""
    return ", ".join(f"{k} {v:.3f}" for k, v in list(manifest.metrics.items())[:most]) or "-"


def unsafe_in_short(version: Version, manifest: Manifest) -> list[str]:
    """A word for each thing that is unsafe about a version."""
    said = ["uncertified"] if manifest.uncertified is not None else []
    said += [line.split(":")[0].lower() for line in manifest.unsafe]
    return list(dict.fromkeys([*said, *(s for s in version.unsafe if s != "allow_uncertified")]))


def facts(served: ServedModel) -> list[tuple[str, str]]:
    """What a version is, in lines."""
    version, manifest = served.version, served.manifest
    code = manifest.code
    found = [
        ("model", version.label),
        ("state", version.state + (f": {version.reason}" if version.reason else "")),
        ("stages", ", ".join(version.stages) or "none"),
        ("registered", f"{version.registered} by {version.by}"),
        ("parent", "none" if manifest.parent is None else f"{version.name}@{manifest.parent}"),
        ("run", manifest.run),
        ("metrics", metrics_in_words(manifest, most=9)),
        ("epsilon", epsilon_in_words(manifest)),
        ("input shape", str(list(manifest.input_shape)) if manifest.input_shape else "not said"),
        ("data card", manifest.data_card or "none: the data were not prepared"),
        ("parameters", f"{sum(tensor.numel() for tensor in served.params.values()):,}"),
        ("model SHA-256", manifest.model.sha256),
        ("manifest SHA-256", version.manifest_sha256),
        ("registered with", f"codex_ray {code.codex_ray}, source {code.source[:12]}"),
        *_computed(served),
        ("commit", code.commit or "none"),
    ]
    return [*found, *(("UNSAFE", line) for line in served.unsafe)]


def _computed(served: ServedModel) -> list[tuple[str, str]]:
    """Whose computation the certificate has been held against."""
    if served.certificate is None:
        return []
    return [("computed again", "here too" if served.recomputed else "when it was registered")]


def differences_tables(found: Differences) -> list[tuple[str, Table]]:
    """A table for each kind of difference, under its heading."""
    groups = (
        ("settings", found.config),
        ("metrics", found.metrics),
        ("privacy", found.privacy),
        ("other", found.rest),
    )
    tables = [(title, _pairs(found, pairs)) for title, pairs in groups if pairs]
    if not found.same_model:
        tables.append(("weights", _weights(found.weights)))
    return tables


def _pairs(found: Differences, pairs: Sequence[Pair]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", found.before, found.after, "change"):
        table.add_column(heading, overflow="fold")
    for pair in pairs:
        table.add_row(pair.what, _value(pair.before), _value(pair.after), _change(pair))
    return table


def _weights(moved: Sequence[Moved]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("parameter", "largest change", "relative change"):
        table.add_column(heading, overflow="fold")
    for one in moved:
        largest = "another shape" if one.largest is None else f"{one.largest:.3g}"
        relative = "-" if one.relative is None else f"{one.relative:.2%}"
        table.add_row(one.parameter, largest, relative)
    return table


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:45]}..."


def _change(pair: Pair) -> str:
    numbers = [pair.before, pair.after]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return ""
    return f"{pair.after - pair.before:+.4g}" if pair.after != pair.before else "the same"
