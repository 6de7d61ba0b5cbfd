"""The certificate on one page for people: `privacy.md`, a pure function of `privacy.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codex_ray.records.certificate import Certificate, ClaimPart, Document


def page(document: Document) -> str:
    """The page, in Markdown."""
    found = document.certificate
    lines = ["# Privacy", ""]
    if document.refused is not None or found is None:
        lines += [f"**There is no certificate.** {_sentence(document.refused or '')}", ""]
        lines += [_sentence(document.randomness)]
        return "\n".join(lines) + "\n"
    lines += [f"Run `{found.name}`. {_sentence(document.signed_in_words)}", ""]
    lines += [f"**{_headline(claim)}**  " for claim in found.claims]
    lines += ["", _sentence(document.randomness), ""]
    lines += [f"> Note: {_sentence(note)}" for note in found.notes]
    lines += _of_all(found)
    for claim in found.claims:
        lines += _of_claim(claim)
    lines += _gaps_and_hashes(found)
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _headline(claim: ClaimPart) -> str:
    spent = claim.accounting
    return (
        f"epsilon {_figure(spent.epsilon)} at delta {spent.delta:g} for one {claim.unit} "
        f"({claim.neighbours.replace('_', ' ')}), against {claim.against}"
    )


def _figure(value: float | str) -> str:
    return f"{float(value):.4g}"


def _of_all(found: Certificate) -> list[str]:
    setting, public = found.setting, found.public
    return [
        "",
        "## 1. Setting",
        "",
        f"* Noise: {setting.noise_added}",
        f"* Sum: `{setting.protocol}`, {setting.protection}",
        f"* Server: {setting.server_trust}",
        f"* Conspirators: {setting.conspirators}",
        f"* Dropouts: {setting.dropouts}",
        f"* Public: {public.population} clients, {public.expected_cohort:g} expected in a round, "
        f"{public.dimension} parameters",
        *_preparation(found),
        "",
    ]


def _preparation(found: Certificate) -> Iterator[str]:
    about = found.preparation
    if about is None:
        return
    yield f"* Features: {about.source}: {about.words}"
    for spent in about.spent:
        yield (
            f"    * of the epsilon of claim {spent.claim} this takes, by itself, "
            f"{_figure(spent.epsilon)} at delta {spent.delta:g}"
        )
    if about.figures is not None:
        yield f"    * SHA-256 of the figures, which are in config.yaml: `{about.figures}`"
    if about.data_card is not None:
        yield f"* Data card, SHA-256: `{about.data_card}`"
    if about.data_manifest is not None:
        yield f"* Manifest of the records, SHA-256: `{about.data_manifest}`"


def _of_claim(claim: ClaimPart) -> list[str]:
    noise, drawn, run = claim.mechanism, claim.sampling, claim.composition
    deviation = (
        "follows the clip norm" if noise.noise_deviation is None else f"{noise.noise_deviation:.6g}"
    )
    size = ""
    if noise.noise_multiplier is not None:
        size = f"noise multiplier {noise.noise_multiplier:g}, standard deviation {deviation}, "
    lines = [
        f"## Claim {claim.name}: a {claim.unit}",
        "",
        f"* 2. Unit: one {claim.unit}",
        f"* 3. Neighbours: {claim.neighbours.replace('_', ' ')}",
        f"* Against: {claim.against}",
        *(f"* Assumes: {said}" for said in claim.assumes),
        f"* 4. Mechanism: {noise.kind}; clipping {noise.clipping}; sensitivity "
        f"{noise.sensitivity}; {size}on {noise.noise_on}; {noise.arithmetic}",
        f"* 5. Sampling as implemented: {drawn.implemented}; as assumed: {drawn.assumed}",
        f"* 6. Composition: {run.rounds} of {run.rounds_planned} rounds, {run.rounds_aborted} "
        f"without a sum; {run.stopped}",
        *(f"    * {paid.count} x {paid.words}" for paid in run.paid),
    ]
    if run.holders is not None:
        counts = ", ".join(f"{n} clients paid {times}" for times, n in run.holders.items())
        lines.append(f"    * releases by client: {counts}")
    if run.unsettled:
        lines.append(f"    * reserved for a round that never ended: {len(run.unsettled)}")
    return [*lines, *_accounted(claim), ""]


def _accounted(claim: ClaimPart) -> Iterator[str]:
    spent = claim.accounting
    yield (
        f"* 7. Accounting: epsilon {_figure(spent.epsilon)} at delta {spent.delta:g} by "
        f"{spent.accountant}; RDP proves {_figure(spent.bound)}"
    )
    if spent.delta_of_shortfall:
        yield f"    * of delta, {spent.delta_of_shortfall:.1e} is the chance of a cohort too small"
    if spent.unsampled is not None:
        yield (
            f"    * if it is known in which {spent.unsampled.participations} of them one was (the "
            f"expected number): epsilon {_figure(spent.unsampled.epsilon)}"
        )
    yield from _curve(spent.curve)
    if claim.extrapolated is not None:
        larger = claim.extrapolated
        yield (
            f"    * extrapolated: epsilon {_figure(larger.epsilon)}, {larger.words}; the literal "
            f"epsilon of this run is {_figure(spent.epsilon)}"
        )


def _curve(curve: dict[str, Any] | None) -> Iterator[str]:
    if curve is None:
        return
    pairs = dict.fromkeys(f"{_figure(eps)} at {float(d):.3g}" for d, eps in curve["epsilons"])
    yield f"    * epsilon at several deltas: {', '.join(pairs)}"
    rates = ", ".join(
        f"{float(power):.2%} of members at a false positive rate of {float(rate):.1%}"
        for rate, power in curve["true_positive_rates"]
    )
    yield f"    * no membership test finds more than {rates}"
    mu = (
        f"    * Gaussian differential privacy: mu {_figure(curve['mu'])} (off by at most "
        f"{_figure(curve['mu_excess'])} in true positive rate)"
    )
    yield mu if curve["rho"] is None else f"{mu}; zCDP rho {_figure(curve['rho'])}"


def _audit(found: Certificate) -> list[str]:
    if found.audit is None:
        return ["* none was made"]
    return [f"* {verdict['kind']}: {verdict['words']}" for verdict in found.audit]


def _gaps_and_hashes(found: Certificate) -> list[str]:
    hashes, code = found.hashes, found.code
    return [
        "## 8. Not covered",
        "",
        *(f"* {gap.what} ({gap.severity}): {gap.words}" for gap in found.not_covered),
        "",
        "## 9. Audit",
        "",
        *_audit(found),
        "",
        "## 10. What this is about (SHA-256)",
        "",
        f"* config.yaml `{hashes.config}`",
        f"* rounds.jsonl, without times `{hashes.rounds}`",
        f"* ledgers `{hashes.ledgers}`",
        f"* model.safetensors `{hashes.model}`",
        f"* codex_ray {code.codex_ray}, source `{code.source}`, dp-accounting {code.dp_accounting}",
        "",
        "Check it with `codex-ray account --verify RUN --trust FILE`, where FILE is the public key",
        "of whoever ran this, from them and not from here.",
    ]
