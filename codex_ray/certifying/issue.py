"""A run's certificate: built from its terms, ledgers and files, refused where it would be false.

Whoever checks it calls the same function with what they found themselves, and compares.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.certifying.figures import preparation
from codex_ray.certifying.replay import Line, charges_of, differences
from codex_ray.certifying.sampling import agreed_sampling
from codex_ray.certifying.sections import gaps, mechanism, public, setting
from codex_ray.certifying.terms import Terms, all_spends, delta_warnings, published
from codex_ray.errors import PrivacyError, RunDirectoryError
from codex_ray.federation.charges import Charge
from codex_ray.federation.state import ServerState
from codex_ray.privacy.accountants import AccountantName, account
from codex_ray.privacy.curve import PrivacyCurve, privacy_curve
from codex_ray.privacy.events import Entries, Relation, event_in_words, event_to_json
from codex_ray.privacy.ledger import EVERYONE, Ledger
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.records.canonical import digest, plain, read_json
from codex_ray.records.certificate import (
    Accounting,
    Certificate,
    ClaimPart,
    Code,
    Composition,
    Document,
    Extrapolation,
    Hashes,
    Paid,
    Unsampled,
    page_of,
    signing_key,
)
from codex_ray.records.certificate_page import page
from codex_ray.records.run_directory import RunDirectory, write_atomically

if TYPE_CHECKING:
    from dp_accounting import DpEvent

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """What a certificate is about beside its terms: the run as it went.

    Attributes:
        lines: rounds.jsonl.
        ledgers: as they are published.
        unsettled: what was reserved for a round that never ended, as rounds.jsonl would have it.
        config: SHA-256 of config.yaml, in hex.
        model: SHA-256 of model.safetensors, in hex.
        audit: the verdicts of an audit of the run; None if there was none.
    """

    lines: Sequence[Line]
    ledgers: Sequence[Ledger]
    unsettled: Sequence[Line]
    config: str
    model: str
    audit: Sequence[Mapping[str, Any]] | None = None


def issue(
    terms: Terms,
    state: ServerState,
    directory: RunDirectory,
    *,
    audit: Sequence[Mapping[str, Any]] | None = None,
) -> Document:
    """Writes privacy.json and privacy.md of a run whose last state is `state`, and returns it.

    It is signed if whoever runs this has a key. A claim that does not hold is refused in a line
    that stands in the certificate's place; the spends and ledgers are written all the same.
    """
    hidden = terms.experiment.federation.hides_cohorts or all(c.hidden for c in terms.charges)
    unsettled = [
        {"survivors": None, "clients": len(cohort), "members": None if hidden else list(cohort)}
        for cohort in state.totals.unsettled
    ]
    evidence = Evidence(
        lines=read_lines(directory),
        ledgers=published(terms, state.ledgers),
        unsettled=unsettled,
        config=sha256_of(directory.config),
        model=sha256_of(directory.model),
        audit=audit,
    )
    document = document_of(terms, evidence)
    key, unusable = signing_key()
    if unusable is not None:
        LOG.warning("privacy.json is not signed: %s", unusable)
    if key is not None:
        document = document.signed_by(key)
    write_atomically(directory.privacy, document.to_bytes())
    write_atomically(page_of(directory), page(document).encode())
    return document


def document_of(terms: Terms, evidence: Evidence) -> Document:
    """The document that the terms and the evidence make, not yet signed."""
    refused, certificate = None, None
    try:
        certificate = certificate_of(terms, evidence)
    except PrivacyError as error:
        refused = str(error)
    return Document(
        randomness=terms.randomness,
        spends=tuple(plain(s.to_json()) for s in all_spends(terms, evidence.ledgers)),
        ledgers=tuple(plain(ledger.to_json()) for ledger in evidence.ledgers),
        refused=refused,
        certificate=certificate,
    )


def certificate_of(terms: Terms, evidence: Evidence) -> Certificate:
    """The certificate that the terms and the evidence make.

    Raises:
        PrivacyError: there is no claim, the journal does not explain a ledger, an audit
            contradicts it, or what is implemented is not what is accounted.
    """
    if not terms.charges:
        raise PrivacyError("no certificate: no noise is added anywhere, so there is no claim")
    if any("charged" not in line for line in evidence.lines):
        raise PrivacyError(
            "no certificate: rounds.jsonl does not tell who paid for each round (it was written by "
            "an older version): run the experiment again"
        )
    charged = charges_of(evidence.lines, evidence.unsettled)
    if wrong := differences(terms, charged, evidence.ledgers):
        raise PrivacyError(f"no certificate: rounds.jsonl does not explain {wrong[0]}")
    for verdict in evidence.audit or ():
        if not verdict["passed"]:
            raise PrivacyError(f"no certificate: the audit contradicts it: {verdict['words']}")
    return Certificate(
        name=terms.experiment.name,
        setting=setting(terms),
        public=public(terms),
        claims=tuple(
            _claim(terms, charge, ledger, evidence)
            for charge, ledger in zip(terms.charges, evidence.ledgers, strict=True)
        ),
        not_covered=gaps(terms),
        audit=None if evidence.audit is None else tuple(map(dict, evidence.audit)),
        hashes=Hashes(
            config=evidence.config,
            rounds=digest(plain(without_times(evidence.lines))),
            ledgers=digest([plain(ledger.to_json()) for ledger in evidence.ledgers]),
            model=evidence.model,
        ),
        code=this_code(),
        notes=delta_warnings(terms.experiment, population=terms.population),
        preparation=preparation(terms),
    )


def _claim(terms: Terms, charge: Charge, ledger: Ledger, evidence: Evidence) -> ClaimPart:
    entries = most_spent(ledger)
    claim = charge.claim
    return ClaimPart(
        name=claim.name,
        unit=claim.unit,
        neighbours=claim.neighbours,
        against=claim.against,
        assumes=claim.assumes,
        mechanism=mechanism(terms, charge),
        sampling=agreed_sampling(terms, charge, [e for e, _ in entries], lines=evidence.lines),
        composition=_composition(terms, ledger, entries, evidence),
        accounting=_accounting(terms, charge, ledger, entries),
        extrapolated=extrapolated(terms, rounds=len(evidence.lines))
        if claim.unit == "client"
        else None,
    )


def most_spent(ledger: Ledger) -> Entries:
    """What the holder has paid who has spent most; nothing while nobody has paid."""
    different = {frozenset(ledger.entries(holder)): holder for holder in sorted(ledger.paid)}
    costs = {
        holder: account(
            ledger.entries(holder),
            ledger.delta,
            relation=ledger.relation,
            accountant=ledger.accountant,
        ).epsilon
        for holder in different.values()
    }
    return ledger.entries(max(sorted(costs), key=lambda h: costs[h])) if costs else ()


def _composition(terms: Terms, ledger: Ledger, entries: Entries, evidence: Evidence) -> Composition:
    rounds, planned = len(evidence.lines), terms.experiment.rounds
    budget = terms.experiment.budget.epsilon
    return Composition(
        rounds=rounds,
        rounds_planned=planned,
        rounds_aborted=sum(line["aborted"] is not None for line in evidence.lines),
        stopped="all planned rounds were run"
        if rounds >= planned
        else f"before the round that could have passed the budget of {budget}",
        paid=tuple(
            Paid(event=event_to_json(event), words=event_in_words(event), count=count)
            for event, count in entries
        ),
        releases=sum(count for _, count in entries),
        holders=_holders(ledger, terms.population),
        unsettled=tuple(evidence.unsettled),
    )


def _holders(ledger: Ledger, population: int) -> dict[str, int] | None:
    """How many clients have paid for so many releases; None where one entry stands for all."""
    if EVERYONE in ledger.paid or not ledger.paid:
        return None
    counts: Counter[int] = Counter()
    for history, holders in ledger.paid.groups():
        counts[sum(n for _, n in history)] += len(holders)
    if rest := population - counts.total():
        counts[0] += rest
    return {str(releases): counts[releases] for releases in sorted(counts)}


def _accounting(terms: Terms, charge: Charge, ledger: Ledger, entries: Entries) -> Accounting:
    found = account(entries, ledger.delta, relation=ledger.relation, accountant=ledger.accountant)
    curve = None
    if math.isfinite(found.epsilon):
        curve = _curve(entries, ledger.delta, ledger.relation, ledger.accountant).to_json()
    return Accounting(
        epsilon=found.epsilon,
        delta=terms.experiment.budget.delta,
        delta_of_shortfall=terms.shortfall,
        accountant=found.words,
        discretisation=found.discretisation,
        bound=found.bound,
        unsampled=_unsampled(ledger, entries),
        curve=plain(curve),
    )


@lru_cache(maxsize=256)
def _curve(
    entries: Entries, delta: float, relation: Relation, accountant: AccountantName
) -> PrivacyCurve:
    return privacy_curve(entries, delta, relation=relation, accountant=accountant)


def _unsampled(ledger: Ledger, entries: Entries) -> Unsampled | None:
    """What it costs if it is known in which samples somebody was, at the expected number of them.

    None where no sampling was credited, or nothing is known of the event without it.
    """
    import dp_accounting as dp

    counts: dict[DpEvent, float] = {}
    credited = False
    for event, count in entries:
        rate, inner = 1.0, event
        if isinstance(event, dp.PoissonSampledDpEvent):
            rate, inner, credited = event.sampling_probability, event.event, True
        elif isinstance(event, dp.SampledWithoutReplacementDpEvent):
            rate, inner, credited = event.sample_size / event.source_dataset_size, event.event, True
        counts[inner] = counts.get(inner, 0.0) + rate * count
    if not credited:
        return None
    often = {event: math.ceil(count - 1e-9) for event, count in counts.items()}
    found = account(
        tuple(often.items()), ledger.delta, relation=ledger.relation, accountant=ledger.accountant
    )
    return Unsampled(participations=sum(often.values()), epsilon=found.epsilon)


def extrapolated(terms: Terms, *, rounds: int) -> Extrapolation | None:
    """The epsilon of the larger run that noise was scaled for; None where it was not."""
    federation, delta = terms.experiment.federation, terms.experiment.budget.delta
    larger, noisy = federation.presumed, federation.mechanism
    epsilon = federation.extrapolated(rounds=rounds, delta=delta)
    if larger is None or epsilon is None:
        return None
    assert isinstance(noisy, CentralGaussian)  # No other mechanism presumes anything.
    return Extrapolation(
        cohort=larger.cohort,
        population=larger.population,
        noise_multiplier=noisy.noise_multiplier,
        epsilon=epsilon,
        words=larger.words(rounds),
    )


def without_times(lines: Sequence[Line]) -> list[Line]:
    """The journal without what no replay repeats."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def read_lines(directory: RunDirectory) -> list[Line]:
    """The lines of rounds.jsonl.

    Raises:
        RunDirectoryError: a line is none.
    """
    found: list[Line] = []
    try:
        content = directory.rounds.read_text() if directory.rounds.exists() else ""
        for text in content.splitlines():
            line = read_json(text)
            if not isinstance(line, dict):
                raise ValueError("it is no object")
            found.append(line)
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(
            f"{directory.rounds}: line {len(found) + 1} cannot be read: {error}"
        ) from None
    return found


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hex.

    Raises:
        RunDirectoryError: there is none.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=1)
def this_code() -> Code:
    """The version of this package and of its accountant, with a hash over every source file."""
    package = Path(__file__).resolve().parent.parent
    hashed = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix().encode()
        content = file.read_bytes()
        hashed.update(len(name).to_bytes(4, "big") + name)
        hashed.update(len(content).to_bytes(8, "big") + content)
    return Code(
        codex_ray=version("codex-ray"),
        source=hashed.hexdigest(),
        dp_accounting=version("dp-accounting"),
    )
