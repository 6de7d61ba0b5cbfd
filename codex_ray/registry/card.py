"""A version's card: one page for people that needs nothing beside it, with privacy first."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from string import Template
from typing import Any

from codex_ray.records.certificate import ClaimPart
from codex_ray.registry.served import ServedModel
from codex_ray.registry.tables import facts

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>
body {font: 15px/1.5 system-ui, sans-serif; max-width: 56em; margin: 2em auto; padding: 0 1em}
table {border-collapse: collapse; margin: .5em 0 1.5em}
td, th {padding: .25em 1em .25em 0; text-align: left; vertical-align: top;
 border-bottom: 1px solid #ddd; overflow-wrap: anywhere}
.unsafe {border-left: 4px solid #b00020; background: #fff1f1; padding: .5em 1em}
.claim {border-left: 4px solid #1b6ca8; background: #f0f6fb; padding: .5em 1em; margin: .5em 0}
pre {white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: 1em}
</style>
<h1>$title</h1>
$unsafe
<h2>Privacy</h2>
$privacy
<h2>Metrics</h2>
<p>Of the model on the pooled test set: exact, so they cover nobody whose records are in it.</p>
$metrics
<h2>Data</h2>
$data
<h2>Not covered by any epsilon here</h2>
$gaps
<h2>Where it comes from</h2>
$facts
<p>Check it with <code>codex-ray models verify $label --trust FILE</code>, where FILE is the public
key of whoever registered it, from them and not from here.</p>
</html>
""")


def card(served: ServedModel) -> str:
    """The page, in HTML."""
    certificate, manifest = served.certificate, served.manifest
    gaps = () if certificate is None else certificate.not_covered
    return PAGE.substitute(
        title=_text(f"{served.version.label} ({served.version.state})"),
        label=_text(served.version.label),
        unsafe=_unsafe(served.unsafe),
        privacy=_privacy(served),
        metrics=_table((name, f"{value:.4f}") for name, value in manifest.metrics.items()),
        data=_data(served),
        gaps=_list(f"{gap.what} ({gap.severity}): {gap.words}" for gap in gaps)
        if certificate is not None
        else "<p>There is no epsilon: nothing is covered.</p>",
        facts=_table(pair for pair in facts(served) if pair[0] != "UNSAFE"),
    )


def _unsafe(lines: Iterable[str]) -> str:
    found = list(lines)
    return f'<div class="unsafe"><strong>Unsafe</strong>{_list(found)}</div>' if found else ""


def _privacy(served: ServedModel) -> str:
    certificate = served.certificate
    if certificate is None:
        return f"<p><strong>There is none.</strong> {_text(served.manifest.uncertified or '')}</p>"
    claims = "".join(_claim(claim) for claim in certificate.claims)
    said = [served.document.randomness, *certificate.notes, served.document.signed_in_words]
    return claims + _list(said)


def _claim(claim: ClaimPart) -> str:
    spent, run = claim.accounting, claim.composition
    headline = (
        f"epsilon {float(spent.epsilon):.4g} at delta {spent.delta:g} for one {claim.unit} "
        f"({claim.neighbours.replace('_', ' ')}), against {claim.against}"
    )
    said = [
        f"mechanism: {claim.mechanism.kind}, {claim.mechanism.clipping}",
        f"sampling: {claim.sampling.implemented}",
        f"accounted by {spent.accountant}; {run.releases} releases in {run.rounds} rounds",
        *claim.assumes,
    ]
    return f'<div class="claim"><strong>{_text(headline)}</strong>{_list(said)}</div>'


def _data(served: ServedModel) -> str:
    if served.manifest.data_card is None:
        return "<p>The data were not prepared by codex_ray: there is no data card.</p>"
    said = f"<p>Data card, SHA-256 <code>{_text(served.manifest.data_card)}</code></p>"
    if served.data_card is None:
        return said
    return f"{said}<pre>{_text(json.dumps(served.data_card, indent=2, ensure_ascii=False))}</pre>"


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in dict.fromkeys(texts))}</ul>"


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_text(a)}</th><td>{_text(b)}</td></tr>" for a, b in pairs)
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))
