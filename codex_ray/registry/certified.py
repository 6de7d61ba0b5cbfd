"""Whether a version's certificate holds: codex-ray's own verification over the version's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from codex_ray.certifying.verify import verify
from codex_ray.config import load_yaml
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.records.certificate import Document, read_document
from codex_ray.records.keys import TrustedKey
from codex_ray.records.run_directory import RunDirectory
from codex_ray.registry.manifest import CONFIG, DATA_CARD, DATA_MANIFEST, MODEL
from codex_ray.registry.refusals import TamperError


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        uncertified: why the document certifies nothing; None where it does.
        config: the run's resolved configuration.
    """

    document: Document
    uncertified: str | None
    config: Mapping[str, Any]


def checked(
    files: Mapping[str, bytes],
    hashes: Mapping[str, str],
    *,
    trusted: Iterable[TrustedKey],
    of: str,
    recompute: bool = True,
) -> Checked:
    """What the certificate among a version's files comes to.

    Args:
        files: by the names that they have in a run directory.
        hashes: SHA-256 of each, in hex.
        recompute: also compute everything in it again, as `codex-ray account --verify` does.

    Raises:
        TamperError: it is about other files, or signed by nobody who is trusted, or something in
            it does not follow from the run's own files.
    """
    with TemporaryDirectory(prefix="codex-ray-") as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            document = read_document(RunDirectory(folder))
            config = load_yaml(folder / CONFIG)
        except (RunDirectoryError, ConfigError) as error:
            raise TamperError(f"{of}: {_without(folder, str(error))}") from None
        _check_signature(document, trusted, of=of)
        if document.certificate is not None:
            named = {CONFIG: document.certificate.hashes.config}
            named[MODEL] = document.certificate.hashes.model
            about = document.certificate.preparation
            if about is not None and about.data_card is not None:
                named[DATA_CARD] = about.data_card
            # Whoever gives a card of their own registers no manifest with it.
            if about is not None and about.data_manifest is not None and DATA_MANIFEST in files:
                named[DATA_MANIFEST] = about.data_manifest
            for file, sha256 in named.items():
                if hashes.get(file) != sha256:
                    raise TamperError(f"{of}: the certificate is about another {file}")
        if recompute:
            _recompute(folder, document, of=of)
    return Checked(document, _uncertified(document), config)


def _uncertified(document: Document) -> str | None:
    if document.certificate is None:
        return document.refused or "no certificate: privacy.json holds none"
    if document.signature is None:
        return f"no certificate that counts: {document.signed_in_words}"
    return None


def _check_signature(document: Document, trusted: Iterable[TrustedKey], *, of: str) -> None:
    """Refuses a signature that no trusted key made; a document may have none at all."""
    if document.signature is None:
        return
    named = [key for key in trusted if key.fingerprint == document.signature.key]
    if not named:
        raise TamperError(
            f"{of}: its certificate names the key {document.signature.key}, which is not trusted: "
            "give that public key too, as --trust FILE, if you believe whoever has it"
        )
    if not any(document.is_signed_by(key) for key in named):
        raise TamperError(
            f"{of}: its certificate was changed: {document.signature.key} did not sign it as it is"
        )


def _recompute(folder: Path, document: Document, *, of: str) -> None:
    expected = f"privacy.json: {document.refused or 'holds no certificate'}"
    found = verify(folder)
    wrong = [
        line for line in found.differences if document.certificate is not None or line != expected
    ]
    if not wrong:
        return
    others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    code = next((note for note in found.notes if note.startswith("computed by")), None)
    because = f"; {code}" if code else ""
    raise TamperError(
        f"{of}: its certificate does not follow from its files: {_without(folder, wrong[0])}"
        f"{others}{because}"
    )


def _without(folder: Path, text: str) -> str:
    """A message without the place where the files were only put to be looked at."""
    return text.replace(f"{folder}/", "")
