"""What a run says of its privacy, complete enough to be checked: `privacy.json`, signed.

The ten parts are those that Ponomareva et al. 2023 ("How to DP-fy ML", section 5.3) and NIST SP
800-226 ask for. One document holds them with the spends and ledgers that they follow from; its
signature is Ed25519 over the canonical bytes (RFC 8785) of everything in it but the signature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from codex_ray.errors import InputError, RunDirectoryError
from codex_ray.records.canonical import read_json
from codex_ray.records.keys import SigningKey, key_folder, read_signing_key
from codex_ray.records.run_directory import RunDirectory
from codex_ray.records.signed import Part, Signed

FORMAT: Final = "codex_ray privacy certificate 1"
Severity = Literal["Critical", "Theoretical", "Negligible"]
"""How much a gap may weaken the formal guarantee (docs/privacy.md): the claim may be false; only
under an adversary who is largely theoretical today; by a bounded, tiny amount."""


class Setting(Part):
    """Part 1: who adds the noise, who looks at what, and who is trusted with what."""

    noise_added: str
    protocol: str
    protection: str
    server_trust: str
    conspirators: str
    dropouts: str


class Public(Part):
    """Part 3, second half: the sizes that the guarantee does not hide."""

    population: int
    expected_cohort: float
    dimension: int


class Mechanism(Part):
    """Part 4: what is clipped to what, and the noise as it is added.

    Attributes:
        sensitivity: the most that one unit moves what the noise is added to, in the Euclidean norm.
        noise_deviation: standard deviation of the noise on one coordinate of that; None where it
            follows the clip norm from round to round.
        noise_multiplier: None, as is the deviation, where the noise is no number that is added.
    """

    kind: str
    clipping: str
    clip_norm: float | None
    sensitivity: str
    noise_multiplier: float | None
    noise_deviation: float | None
    noise_on: str
    arithmetic: Literal["floating point", "whole numbers"]


class Sampling(Part):
    """Part 5: how members are drawn, and what the epsilon takes for granted; they have to agree."""

    implemented: str
    assumed: str
    credited: bool


class Paid(Part):
    """An event of the ledger: what it is, and how often whoever has spent most has paid it."""

    event: dict[str, Any]
    words: str
    count: int


class Composition(Part):
    """Part 6: how much was released, and who took part how often.

    Attributes:
        releases: by whoever has spent most.
        holders: releases -> how many clients have paid for so many; None where one entry stands
            for everyone, or nobody may learn it.
        unsettled: reservations of a round that never ended; they are paid for.
    """

    rounds: int
    rounds_planned: int
    rounds_aborted: int
    stopped: str
    paid: tuple[Paid, ...]
    releases: int
    holders: dict[str, int] | None
    unsettled: tuple[dict[str, Any], ...]


class Unsampled(Part):
    """The epsilon against whoever knows in which samples somebody was, that often."""

    participations: int
    epsilon: float


class Extrapolation(Part):
    """The epsilon of a larger run, for which noise was scaled: no claim about this one."""

    cohort: float
    population: int
    noise_multiplier: float
    epsilon: float
    words: str


class Accounting(Part):
    """Part 7: the literal epsilon of this run, its cross-check, and its curve.

    Attributes:
        epsilon: of whoever has spent most, at `delta`.
        delta_of_shortfall: the part of delta that is no accountant's but the chance of a cohort
            too small for its sum.
        bound: the epsilon that Renyi divergences prove: never below `epsilon`.
        curve: epsilon at other deltas, true positive rates, mu and rho; None where nothing bounds
            them.
    """

    epsilon: float
    delta: float
    delta_of_shortfall: float
    accountant: str
    discretisation: float | None
    bound: float
    unsampled: Unsampled | None
    curve: dict[str, Any] | None


class ClaimPart(Part):
    """One ledger in all its parts: its unit, its neighbours, and what its epsilon is worth."""

    name: str
    unit: str
    neighbours: str
    against: str
    assumes: tuple[str, ...]
    mechanism: Mechanism
    sampling: Sampling
    composition: Composition
    accounting: Accounting
    extrapolated: Extrapolation | None


class Gap(Part):
    """Part 8: something that no epsilon here covers, and how much it may matter."""

    what: str
    severity: Severity
    words: str


Source = Literal[
    "fixed public constants",
    "securely pooled",
    "securely pooled with DP",
    "per client",
    "per client with DP",
]
"""Where figures of the records come from."""


class FiguresSpent(Part):
    """What the release of figures costs by itself; the claim's own epsilon has it in it."""

    claim: str
    unit: str
    epsilon: float
    delta: float


class Preparation(Part):
    """By whose figures features were scaled and gaps were filled.

    Attributes:
        source: public constants, figures of all clients from a secure sum, or each client's own;
            `with DP` where they were released with noise.
        words: the same, with which figures, and how they were found.
        figures: SHA-256 of the canonical form of what was released; None where nothing was.
        spent: what that costs by itself, for each claim; it is composed with the training.
        data_card: SHA-256 of the data card; None where the data were not prepared.
        data_manifest: SHA-256 of the manifest that names every shard; None, and then absent from
            the document, where the data were not prepared, and in an earlier version's certificate.
    """

    source: Source
    words: str
    figures: str | None
    spent: tuple[FiguresSpent, ...]
    data_card: str | None
    data_manifest: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What there is: a document of an earlier version stays what it was."""
        found: dict[str, Any] = whole(self)
        if self.data_manifest is None:
            del found["data_manifest"]
        return found


class Hashes(Part):
    """Part 10: SHA-256, in hex, of what the certificate is about.

    Attributes:
        config: of config.yaml.
        rounds: of the canonical form of the list of rounds.jsonl's lines, each without `seconds`,
            so that a replayed run has the same.
        ledgers: of the canonical form of the ledgers in this document.
        model: of model.safetensors.
    """

    config: str
    rounds: str
    ledgers: str
    model: str


class Code(Part):
    """What computed the run: versions, and SHA-256 over the package's source files."""

    codex_ray: str
    source: str
    dp_accounting: str


class Certificate(Part):
    """Everything that a reader needs to judge an epsilon, and to compute it again.

    Attributes:
        audit: part 9, its verdicts; None where none was made.
        notes: what a reader should be warned of.
        preparation: None, and then absent from the document, where nothing is known of it; in a
            certificate of an earlier version it is.
    """

    name: str
    setting: Setting
    public: Public
    claims: tuple[ClaimPart, ...]
    not_covered: tuple[Gap, ...]
    audit: tuple[dict[str, Any], ...] | None
    hashes: Hashes
    code: Code
    notes: tuple[str, ...]
    preparation: Preparation | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The parts that there are: a document of an earlier version stays what it was."""
        found: dict[str, Any] = whole(self)
        if self.preparation is None:
            del found["preparation"]
        return found


class Document(Signed):
    """`privacy.json`.

    Attributes:
        refused: why there is no certificate; None where there is one.
    """

    format: Literal["codex_ray privacy certificate 1"] = FORMAT
    randomness: str
    spends: tuple[dict[str, Any], ...]
    ledgers: tuple[dict[str, Any], ...]
    refused: str | None
    certificate: Certificate | None

    def to_json(self) -> dict[str, Any]:
        """The document as plain data, as the file holds it: the signature stands last."""
        found = super().to_json()
        return found | {"signature": found.pop("signature")}


def signing_key() -> tuple[SigningKey | None, str | None]:
    """(the key of whoever runs this, if there is one; why it cannot be used, if it cannot)."""
    try:
        return read_signing_key(key_folder()), None
    except InputError as error:
        return None, str(error)


def page_of(directory: RunDirectory) -> Path:
    """Where the same stands for people."""
    return directory.path / "privacy.md"


def read_document(directory: RunDirectory) -> Document:
    """The document of a finished run.

    Raises:
        RunDirectoryError: there is none, or it is not one, or not laid out as it was written.
    """
    file = directory.privacy
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise RunDirectoryError(f"{file}: there is none: the run has not ended") from None
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        found = Document.model_validate(read_json(content.decode()))
        if found.to_bytes() != content:
            raise ValueError("it is not laid out as it was written")
        found.signed_bytes()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RunDirectoryError(f"{file}: is no certificate: {where}: {first['msg']}") from None
    except ValueError as error:
        raise RunDirectoryError(f"{file}: is no certificate: {error}") from None
    return found
