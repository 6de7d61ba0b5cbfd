"""The data card: what the records are, what was done to them, and what is known of each client.

It is public, so it shows no raw value and no count of a few people: a cell below the schema's
smallest one is shown as "fewer than 10", and where only one cell of a client's would be hidden, the
next smallest is hidden with it, because the total would give it away. It names no time and no
machine: the same records, schema and key make the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from codex_ray.preparation.anonymity import Figures
from codex_ray.preparation.column import Column
from codex_ray.preparation.label_noise import LabelNoise
from codex_ray.preparation.labels import label_of
from codex_ray.preparation.masking import PATTERNS
from codex_ray.preparation.plan import Holding
from codex_ray.preparation.schema import Schema

PSEUDONYMS: Final = (
    "Pseudonymised is not anonymous: whoever has the key can link these records to persons again, "
    "and they are personal data still."
)
NO_PSEUDONYMS: Final = "Direct identifiers are dropped; there are no pseudonyms."
CLASSES: Final = (
    "k, l and t hold for the columns marked as quasi-identifiers, and for nobody who knows more of "
    "a person than those: the other columns are as they were."
)


def card_of(
    schema: Schema,
    holdings: Sequence[Holding],
    *,
    noise: Sequence[LabelNoise | None],
    sources: Sequence[str],
    key_id: str | None,
) -> dict[str, Any]:
    """The card as plain data.

    Args:
        schema: the rules.
        holdings: what each client keeps.
        noise: what the neighbours say of each client's labels.
        sources: SHA-256 of every file that was read, in their order.
        key_id: of the key of the pseudonyms, if there are any.
    """
    said = [PSEUDONYMS if key_id is not None else NO_PSEUDONYMS]
    clients = zip(holdings, noise, strict=True)
    return {
        "card": 1,
        "name": schema.name,
        "purpose": schema.purpose,
        "delete_after": schema.rules["delete_after"],
        "consents": {tag: list(purposes) for tag, purposes in schema.consents.items()},
        "said": said + ([CLASSES] if schema.anonymity is not None else []),
        "schema_sha256": schema.sha256,
        "sources_sha256": list(sources),
        "pseudonym_key": key_id,
        "smallest_cell": schema.smallest_cell,
        "asked": None if schema.anonymity is None else schema.anonymity.model_dump(mode="json"),
        "columns": [_column(schema, name, column) for name, column in schema.columns.items()],
        "dropped": [name for name, column in schema.columns.items() if not column.used],
        "clients": [_client(schema, holding, found) for holding, found in clients],
    }


def _column(schema: Schema, name: str, column: Column) -> dict[str, Any]:
    return {
        "name": name,
        "type": column.type,
        "role": column.role,
        "unit": column.unit,
        "description": column.description,
        "consent": column.consent or schema.consent,
        "allowed": list(column.range or column.options) if column.used else [],
        "becomes": _becomes(schema, column),
    }


def _becomes(schema: Schema, column: Column) -> str:
    if not column.used:
        return "dropped"
    if column.role == "identifier":
        return "keyed pseudonym (HMAC-SHA256)"
    if column.role == "quasi_identifier":
        return "interval" if column.numeric else ("node" if column.hierarchy else "set of values")
    if column.type == "text":
        masks = [*schema.patterns, *PATTERNS] if column.masks is None else column.masks
        return f"masked text ({', '.join(masks)})"
    if column.positive_above is not None:
        return f"1 above {column.positive_above:g}, else 0"
    return "kept"


def _client(schema: Schema, holding: Holding, noise: LabelNoise | None) -> dict[str, Any]:
    least = schema.smallest_cell
    label = label_of(*schema.label)
    labels = zip(label.values, shown_cells(holding.labels, least=least), strict=True)
    contradicted = None if noise is None else shown_cell(noise.contradicted, least=least)
    return {
        "name": holding.name,
        "records": shown_cell(holding.records, least=least),
        "suppressed": shown_cell(holding.suppressed, least=least),
        "labels": dict(labels),
        "missing": {
            name: _one_of_two(n, holding.records, least) for name, n in holding.gaps.items()
        },
        "anonymity": None if holding.figures is None else _figures(holding.figures),
        "duplicates": {
            "exact": shown_cell(holding.twice.exact, least=least),
            "near": shown_cell(holding.twice.near, least=least),
        },
        "label_noise": None
        if noise is None
        else {"looked_at": shown_cell(noise.looked_at, least=least), "contradicted": contradicted},
    }


def _figures(found: Figures) -> dict[str, Any]:
    told: dict[str, Any] = {
        "k": found.k,
        "classes": found.classes,
        "l": found.l,
        "entropy_l": {name: round(value, 4) for name, value in found.entropy_l.items()},
        "t": {name: round(value, 4) for name, value in found.t.items()},
    }
    if found.l_with_missing:
        entropy = {name: round(value, 4) for name, value in found.entropy_l_with_missing.items()}
        told |= {"l_with_missing": found.l_with_missing, "entropy_l_with_missing": entropy}
    return told


def shown_cell(count: int, *, least: int) -> int | str:
    """A count, unless it is of so few that it could point at somebody."""
    return count if count >= least else f"fewer than {least}"


def shown_cells(counts: Sequence[int], *, least: int) -> list[int | str]:
    """Counts that add up to a number that is shown: if one is hidden, so is the next smallest."""
    hidden = {place for place, count in enumerate(counts) if count < least}
    if len(hidden) == 1 and len(counts) > 1:
        others = [place for place in range(len(counts)) if place not in hidden]
        hidden.add(min(others, key=lambda place: counts[place]))
    return [
        count if place not in hidden else _hidden(count, least)
        for place, count in enumerate(counts)
    ]


def _one_of_two(count: int, whole: int, least: int) -> int | str:
    """A count whose rest counts people as well."""
    return shown_cells([count, whole - count], least=least)[0]


def _hidden(count: int, least: int) -> str:
    return f"fewer than {least}" if count < least else "not shown"
