"""The data card on one page: a pure function of the card, with no script and nothing to load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left;
  vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .85rem; overflow-wrap: anywhere; }
.said { border-left: 4px solid #a40; padding: .3rem 1rem; background: #fff6ef; }
""".strip()


def page_of(card: dict[str, Any], *, card_sha256: str) -> str:
    """The page of a card, in HTML."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Data card: {escape(card['name'])}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(card['name'])}</h1>",
        f"<p>Prepared for <strong>{escape(card['purpose'])}</strong>.{_last_day(card)}</p>",
        *(f'<p class="said">{escape(said)}</p>' for said in card["said"]),
        "<h2>Columns</h2>",
        _table(
            ("column", "type", "role", "unit", "allowed", "becomes", "consent"),
            ([_allowed(cell) for cell in _column(column)] for column in card["columns"]),
        ),
        f"<p>Dropped: {escape(', '.join(card['dropped']) or 'none')}.</p>",
        "<h2>Consents</h2>",
        _table(("tag", "allows"), ([t, ", ".join(p)] for t, p in card["consents"].items())),
        "<h2>Clients</h2>",
        f"<p>Counts below {card['smallest_cell']} are not shown.</p>",
        _table(
            (
                "client",
                "records",
                "left out",
                "labels",
                "missing",
                "exact / near duplicates",
                "labels contradicted",
            ),
            (_client(client) for client in card["clients"]),
        ),
        *_anonymity(card),
        "<h2>Origin</h2>",
        _table(("what", "SHA-256"), _hashes(card, card_sha256)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def text_of(card: dict[str, Any]) -> str:
    """The card in a few lines, for a terminal."""
    lines = [f"{card['name']}: prepared for {card['purpose']}.{_last_day(card)}"]
    lines += [*card["said"], ""]
    for column in card["columns"]:
        unit = f" [{column['unit']}]" if column["unit"] else ""
        kind = f"{column['type']}{unit}"
        lines.append(f"  {column['name']:<20} {kind:<20} {column['role']:<17} {column['becomes']}")
    lines.append("")
    for client in card["clients"]:
        said = f"  {client['name']}: {client['records']} records"
        if client["anonymity"] is not None:
            found = client["anonymity"]
            said += f", k = {found['k']}, {_figures(found['l'], 'l')}, {_figures(found['t'], 't')}"
        lines.append(said)
    if card["pseudonym_key"] is not None:
        lines.append(f"pseudonyms by key {card['pseudonym_key']}")
    return "\n".join(lines)


def _last_day(card: dict[str, Any]) -> str:
    last = card.get("delete_after")  # cards of before have none
    return "" if last is None else f" No run reads the records after {escape(last)}."


def _anonymity(card: dict[str, Any]) -> list[str]:
    if card["asked"] is None:
        return []
    rows = (
        [
            client["name"],
            client["anonymity"]["k"],
            client["anonymity"]["classes"],
            _diversity(client["anonymity"], "l"),
            _diversity(client["anonymity"], "entropy_l"),
            _figures(client["anonymity"]["t"], ""),
        ]
        for client in card["clients"]
    )
    asked = ", ".join(f"{k} = {v}" for k, v in card["asked"].items() if v not in (None, False))
    return [
        "<h2>Anonymity of the quasi-identifiers</h2>",
        f"<p>Asked: {escape(asked)}.</p>",
        _table(("client", "k", "classes", "l", "entropy l", "t"), rows),
    ]


def _diversity(found: dict[str, Any], name: str) -> str:
    """Of known values; beside it what it would be if a gap counted as a value."""
    counted = found.get(f"{name}_with_missing")
    said = _figures(found[name], "")
    return f"{said}; a gap counted as a value: {_figures(counted, '')}" if counted else said


def _figures(found: dict[str, Any], name: str) -> str:
    sign = f"{name} = " if name else ""
    return ", ".join(f"{sign}{value} ({column})" for column, value in found.items())


def _column(column: dict[str, Any]) -> list[Any]:
    keys = ("name", "type", "role", "unit", "allowed", "becomes", "consent")
    return [column[key] for key in keys]


def _allowed(cell: Any) -> Any:
    return ", ".join(map(str, cell)) if isinstance(cell, list) else cell


def _client(client: dict[str, Any]) -> list[Any]:
    noise = client["label_noise"]
    return [
        client["name"],
        client["records"],
        client["suppressed"],
        _pairs(client["labels"]),
        _pairs(client["missing"]),
        f"{client['duplicates']['exact']} / {client['duplicates']['near']}",
        "not measured" if noise is None else f"{noise['contradicted']} of {noise['looked_at']}",
    ]


def _pairs(found: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in found.items())


def _hashes(card: dict[str, Any], card_sha256: str) -> Iterable[Sequence[Any]]:
    yield "this card (card.json)", card_sha256
    yield "schema", card["schema_sha256"]
    for number, sha256 in enumerate(card["sources_sha256"]):
        yield f"source {number}", sha256
    if card["pseudonym_key"] is not None:
        yield "key of the pseudonyms (its id)", card["pseudonym_key"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<table><thead><tr>", *(f"<th>{escape(head)}</th>" for head in heads)]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        cells = "".join(
            f'<td class="n">{cell}</td>'
            if isinstance(cell, int)
            else f"<td>{escape(str(cell))}</td>"
            for cell in row
        )
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table>"])
