"""A finished run's certificate, checked from its directory alone: no data, none of its own code.

Everything that it says is computed again from config.yaml and rounds.jsonl and compared; then the
signature is checked with a key that the reader brought. A document that somebody has changed and
made consistent again fails only there, so without such a key nothing is verified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from codex_ray.calibrating import asked
from codex_ray.certifying.issue import Evidence, document_of, read_lines, sha256_of, this_code
from codex_ray.certifying.journal import problems
from codex_ray.certifying.replay import charges_of, differences
from codex_ray.certifying.terms import Terms
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import CodexRayError, ConfigError, InputError, PrivacyError, RunDirectoryError
from codex_ray.experiment import Experiment
from codex_ray.privacy.ledger import Ledger
from codex_ray.records.canonical import plain, read_json
from codex_ray.records.certificate import Certificate, Document, page_of, read_document
from codex_ray.records.certificate_page import page
from codex_ray.records.keys import TrustedKey, read_trusted_key
from codex_ray.records.run_directory import RunDirectory

CLOSE = 1e-6
"""Figures that are computed again may differ by so large a part: another processor, another digit.
"""


@dataclass(frozen=True)
class Verification:
    """What checking a certificate came to.

    Attributes:
        document: what was checked; None if it cannot be read.
        differences: one line for each thing that is not as it should be.
        notes: what a reader should know that is no difference.
        pinned: whether the signature was checked with a key that the reader brought.
    """

    document: Document | None
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    pinned: bool

    @property
    def status(self) -> int:
        """The exit status: 0 for verified, 1 for a difference, 2 where no key was brought."""
        if self.differences:
            return 1
        return 0 if self.pinned else 2


def verify(run: Path, *, trust: Path | None = None) -> Verification:
    """What is left of the certificate of `run` when everything in it is computed again.

    `trust` is a file with the public key of whoever the reader believes.

    Raises:
        InputError: there is no run, or no such key; the key lies in the run's own directory.
    """
    directory = RunDirectory.open(run)
    key = None if trust is None else _pinned(trust, directory)
    try:
        document = read_document(directory)
    except RunDirectoryError as error:
        return Verification(None, (str(error),), (), key is not None)
    found = list(_signature(document, key))
    if document.certificate is None:
        found.append(f"privacy.json: {document.refused or 'holds no certificate'}")
    else:
        try:
            found += _recomputed(directory, document, document.certificate)
        except (CodexRayError, ValueError, ArithmeticError, RecursionError) as error:
            found.append(str(error))
    found += _beside(directory, document)
    notes = tuple(_notes(document))
    return Verification(document, tuple(dict.fromkeys(found)), notes, key is not None)


def _pinned(trust: Path, directory: RunDirectory) -> TrustedKey:
    if trust.resolve().is_relative_to(directory.path.resolve()):
        raise InputError(
            f"--trust {trust}: comes with the run that it is to check, and whoever changed one "
            "could change the other: give a key that you had before"
        )
    return read_trusted_key(trust)


def _signature(document: Document, key: TrustedKey | None) -> Iterator[str]:
    if key is None:
        return
    if document.signature is None:
        yield "privacy.json: is not signed, so nobody vouches for it"
    elif not document.is_signed_by(key):
        yield (
            f"privacy.json: the signature is not one of {key.fingerprint} over this content (it "
            f"names {document.signature.key})"
        )
    elif document.signature.key != key.fingerprint:
        yield f"privacy.json: names {document.signature.key}, but {key.fingerprint} signed it"


def _recomputed(
    directory: RunDirectory, document: Document, certificate: Certificate
) -> Iterator[str]:
    """Every difference between the document and what config.yaml and rounds.jsonl make of it."""
    public = certificate.public
    experiment = _experiment(directory)
    terms = Terms(experiment, public.population, public.dimension)
    yield from _sizes(directory, terms)
    lines = read_lines(directory)
    first = certificate.claims[0].composition if certificate.claims else None
    unsettled = list(first.unsettled) if first is not None else []
    if wrong := problems(terms, lines, unsettled=unsettled):
        yield from wrong
        return
    shown = _ledgers(document)
    yield from differences(terms, charges_of(lines, unsettled), shown)
    again = document_of(
        terms,
        Evidence(
            lines=lines,
            ledgers=shown,
            unsettled=unsettled,
            config=sha256_of(directory.config),
            model=sha256_of(directory.model),
            audit=certificate.audit,
        ),
    )
    if again.refused is not None:
        yield again.refused
    yield from _compared(document, again)


def _ledgers(document: Document) -> list[Ledger]:
    try:
        return [Ledger.from_json(dict(data)) for data in document.ledgers]
    except (KeyError, TypeError, AttributeError) as error:
        raise PrivacyError(f"privacy.json: ledgers: are none: {error!r}") from None


def _experiment(directory: RunDirectory) -> Experiment:
    """The configuration, read without running anything that it names.

    Raises:
        ConfigError: it is none, or leaves noise to be solved for, which would open data and model.
    """
    data = load_yaml(directory.config)
    if places := asked(data):
        raise ConfigError(
            f"{directory.config}: {'.'.join(places[0])}.noise_multiplier is auto, where a run "
            "writes the number that it found"
        )
    experiment = experiment_from(data)
    if experiment.preparation.unsettled:
        raise ConfigError(
            f"{directory.config}: data.prepare.statistics is missing, where a run writes what it "
            "found"
        )
    return experiment


def _sizes(directory: RunDirectory, terms: Terms) -> Iterator[str]:
    """Where the two sizes that are taken from the certificate are not those of the run."""
    said = getattr(terms.experiment.data, "clients", None)
    if isinstance(said, int) and said != terms.population:
        yield f"public.population is {terms.population}, and config.yaml has {said} clients"
    try:
        with safe_open(directory.model, framework="np") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        yield f"{directory.model}: cannot be read: {error}"
        return
    found = sum(math.prod(shape) for shape in shapes)
    if found != terms.dimension:
        yield f"public.dimension is {terms.dimension}, and the model has {found} parameters"


def _compared(document: Document, again: Document) -> Iterator[str]:
    """Each field that says something else than what was computed; the code may be another."""
    mine, theirs = again.to_json(), document.to_json()
    if _says_nothing_of_preparation(document) and _needs_not(again):
        del mine["certificate"]["preparation"]
    for side in (mine, theirs):
        del side["signature"]
        if side["certificate"] is not None:
            del side["certificate"]["code"]
    yield from (f"privacy.json: {line}" for line in _unlike(theirs, mine, ""))


def _says_nothing_of_preparation(document: Document) -> bool:
    """Whether it has no such part, as no certificate of an earlier version has."""
    return document.certificate is not None and document.certificate.preparation is None


def _needs_not(document: Document) -> bool:
    """Whether its part on preparation says no more than that nothing was computed for it."""
    found = None if document.certificate is None else document.certificate.preparation
    public = found is not None and found.source == "fixed public constants"
    return found is not None and public and found.data_card is None


def _unlike(theirs: Any, mine: Any, path: str) -> Iterator[str]:
    """`path`: what stands there, and what was computed, for each leaf where they differ."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for name in [*mine, *(n for n in theirs if n not in mine)]:
            yield from _unlike(theirs.get(name), mine.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for number, pair in enumerate(zip(theirs, mine, strict=True)):
            yield from _unlike(*pair, f"{path}.{number}")
    elif _is_number(theirs) and _is_number(mine):
        if not math.isclose(theirs, mine, rel_tol=CLOSE, abs_tol=1e-15):
            yield f"{path} is {theirs!r}, computed again it is {mine!r}"
    elif theirs != mine:
        yield f"{path} is {_short(theirs)}, computed again it is {_short(mine)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _beside(directory: RunDirectory, document: Document) -> Iterator[str]:
    """Where the files that say the same in other words say something else."""
    try:
        if page_of(directory).read_bytes() != page(document).encode():
            yield "privacy.md: is not the page of this privacy.json"
    except OSError as error:
        yield f"privacy.md: cannot be read: {error.strerror or error}"
    try:
        result = read_json(directory.result.read_text())
        spends = result["privacy"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"result.json: cannot be read: {error}"
        return
    if spends != [dict(spend) for spend in document.spends]:
        yield "result.json: its spends are not those of privacy.json"
    if result.get("randomness") != document.randomness:
        yield "result.json: its randomness is not that of privacy.json"
    if document.certificate is None:
        return
    part = document.certificate
    if result.get("clients") != part.public.population:
        yield f"result.json: clients is {result.get('clients')!r}, not {part.public.population}"
    prepared = None if part.preparation is None else plain(part.preparation.model_dump())
    if result.get("preparation") != prepared:
        yield "result.json: its preparation is not that of privacy.json"
    larger = [plain(c.extrapolated.model_dump()) for c in part.claims if c.extrapolated is not None]
    if (result.get("extrapolated") or None) != (larger[0] if larger else None):
        yield "result.json: its extrapolated epsilon is not that of privacy.json"
    shown = plain(document.certificate.audit)
    if (result.get("audit") or []) != (shown or []):
        yield "result.json: its audit is not that of privacy.json"
    for claim in document.certificate.claims[:1]:
        if result.get("rounds") != claim.composition.rounds:
            yield f"result.json: rounds is {result.get('rounds')!r}, not {claim.composition.rounds}"


def _notes(document: Document) -> Iterator[str]:
    if document.certificate is None:
        return
    theirs, mine = document.certificate.code, this_code()
    if theirs != mine:
        yield (
            f"computed by codex_ray {theirs.codex_ray} (source {theirs.source[:12]}, dp-accounting "
            f"{theirs.dp_accounting}), checked with {mine.codex_ray} ({mine.source[:12]}, "
            f"{mine.dp_accounting})"
        )
    yield from document.certificate.notes
    if document.randomness.startswith("SIMULATION"):
        yield "a simulation: its noise can be replayed from the seed"
