"""A finished run as it may become a version: its files, read once, and what they come to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from codex_ray.certifying.sections import GENERALISED_COLUMNS
from codex_ray.config import load_yaml
from codex_ray.data.prepared_manifest import CARD, manifest_and_content, read_vouched
from codex_ray.errors import RunDirectoryError
from codex_ray.records.canonical import digest, plain
from codex_ray.records.certificate import Document
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory
from codex_ray.registry.manifest import CONFIG, DATA_CARD, DATA_MANIFEST, MODEL, NEEDED, Spent
from codex_ray.registry.refusals import RegistryError


@dataclass(frozen=True)
class Snapshot:
    """A run's files by name, and its result."""

    path: Path
    files: Mapping[str, bytes]
    result: RunResult

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file, in hex."""
        return {n: hashlib.sha256(content).hexdigest() for n, content in self.files.items()}

    @property
    def data_card(self) -> str | None:
        """SHA-256 of the data card; None where the data were not prepared."""
        return self.hashes.get(DATA_CARD)

    def digest(self) -> str:
        """What makes two runs the same one: all but the times that they took."""
        hashes = self.hashes
        named = (CONFIG, MODEL, "privacy.json", DATA_CARD)
        return digest(
            {
                "files": {name: hashes.get(name) for name in named},
                "metrics": plain(self.result.metrics),
                "overlooked": self.result.overlooked,
            }
        )

    def unsafe(self, document: Document) -> tuple[str, ...]:
        """What was unsafe about the run, a line each."""
        said = [document.randomness] if document.randomness.startswith("SIMULATION") else []
        said += [*self.result.unsafe, *(f"Ray was open: {it}" for it in self.result.overlooked)]
        if document.certificate is not None:
            gaps = document.certificate.not_covered
            said += [f"{gap.what}: {gap.words}" for gap in gaps if gap.what == GENERALISED_COLUMNS]
        return tuple(dict.fromkeys(said))


def snapshot(run: Path, *, data_card: Path | None = None) -> Snapshot:
    """The files of a finished run, while nothing else writes to it.

    Raises:
        RunDirectoryError: there is no run, or it has not ended, or somebody is at it.
        RegistryError: a metric is no number.
    """
    directory = RunDirectory.open(run)
    with _held(directory):
        result = RunResult.read(run)
        files = {name: _read(run / name) for name in NEEDED}
        files |= dict(_about_data(run, data_card))
    for name, value in result.metrics.items():
        if not math.isfinite(value):
            raise RegistryError(f"{run}: its metric {name} is {value}: it trained nothing to keep")
    return Snapshot(run, files, result)


def _about_data(run: Path, data_card: Path | None) -> Iterator[tuple[str, bytes]]:
    """The card of the data, and how prepared ones became features.

    Raises:
        DataError: the prepared data lie no longer where the run found them, or were changed.
        RegistryError: other data lie there than the run, and so its certificate, names.
    """
    data = load_yaml(run / CONFIG).get("data")
    if isinstance(data, dict) and data.get("kind") == "prepared" and data_card is None:
        folder = Path(str(data.get("path")))
        vouched, content = manifest_and_content(folder)
        found = {"card": vouched.card_sha256, "manifest": hashlib.sha256(content).hexdigest()}
        for field, sha256 in found.items():
            if data.get(field) not in (None, sha256):
                raise RegistryError(
                    f"{folder}: its {field} is {sha256[:12]}, and the run at {run} had "
                    f"{str(data[field])[:12]}: put the data back that it was trained on"
                )
        yield DATA_CARD, read_vouched(folder / CARD, vouched.card_sha256)
        yield DATA_MANIFEST, content
        return
    card = data_card or run / DATA_CARD
    if data_card is not None or card.exists():
        yield DATA_CARD, _read(card)


def spent(document: Document) -> tuple[Spent, ...]:
    """The claims of a certificate in short."""
    if document.certificate is None:
        return ()
    return tuple(
        Spent(
            claim=claim.name,
            unit=claim.unit,
            epsilon=plain(claim.accounting.epsilon),
            delta=claim.accounting.delta,
        )
        for claim in document.certificate.claims
    )


def _held(directory: RunDirectory) -> AbstractContextManager[None]:
    # A run that was copied without its checkpoints can go on nowhere.
    return directory.locked() if directory.checkpoint.is_dir() else nullcontext()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunDirectoryError(
            f"{file}: cannot be read: {error.strerror or error}: register a run that has ended"
        ) from None
