"""What a version is: its name and number, and every file of it by its SHA-256, signed.

Files keep the names that they had in the run directory, so that the certificate can be checked
from a version just as it is from a run.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from codex_ray.certifying.issue import this_code
from codex_ray.records.signed import Part, Signed

FORMAT: Final = "codex_ray model manifest 1"
CONFIG: Final = "config.yaml"
DATA_CARD: Final = "data_card.json"
DATA_MANIFEST: Final = "data_manifest.json"
"""Of prepared data: which column makes which feature, in which public range."""
MODEL: Final = "model.safetensors"
NEEDED: Final = (CONFIG, "rounds.jsonl", "result.json", "privacy.json", "privacy.md", MODEL)
"""What a version has of its run: the model, and all that checking its certificate needs."""
OPTIONAL: Final = (DATA_CARD, DATA_MANIFEST)
"""What a version has besides where its data were prepared."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Of a model or a stage: safe in a path, a URL and a log line."""


class StoredFile(Part):
    """A file by its content: SHA-256 in hex, and its size in bytes."""

    sha256: Sha256
    size: int = Field(ge=0)


class CodeVersion(Part):
    """The code that registered a version: its versions, its source, and its commit if it has one.

    Attributes:
        source: SHA-256 over the package's source files; where it is that in the certificate, the
            same code computed the run.
        commit: of the git repository that the package lies in; "+changes" follows where files
            differ from it. None for an installed package.
    """

    codex_ray: str
    source: str
    dp_accounting: str
    commit: str | None


class Spent(Part):
    """A claim of the certificate in short; `epsilon` is a number or the text "inf"."""

    claim: str
    unit: str
    epsilon: float | str
    delta: float


class Manifest(Signed):
    """A version of a model.

    Attributes:
        parent: the version of this name that was the last when this one was registered, or the one
            that was named; None for the first.
        files: by the names that they have in a run directory.
        run: the run's own name, and `run_digest` what makes two runs the same one.
        input_shape: of one record, without the batch; None where nobody said it.
        data_card: SHA-256 of the data card; None where the data were not prepared.
        metrics: of the model on the pooled test set, exact: they cover nobody in it.
        privacy: the claims; empty where there is no certificate.
        uncertified: why there is no certificate; None where there is one.
        unsafe: what was unsafe about the run, a line each.
    """

    format: Literal["codex_ray model manifest 1"] = FORMAT
    name: Name
    version: int = Field(ge=1)
    parent: int | None
    run: str
    run_digest: Sha256
    files: dict[str, StoredFile]
    input_shape: tuple[int, ...] | None
    data_card: Sha256 | None
    metrics: dict[str, float]
    privacy: tuple[Spent, ...]
    uncertified: str | None
    unsafe: tuple[str, ...]
    code: CodeVersion

    @field_validator("files")
    @classmethod
    def _only_known_names(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        # They become names in a folder: whoever signs chooses what is in a file, and not where.
        if not set(NEEDED) <= set(files) <= {*NEEDED, *OPTIONAL}:
            raise ValueError(f"they are {', '.join(NEEDED)}, and at most {', '.join(OPTIONAL)}")
        return files

    @property
    def model(self) -> StoredFile:
        """The file with the parameters."""
        return self.files[MODEL]

    @property
    def of_this_code(self) -> bool:
        """Whether the code that registered it, and computed its certificate again, runs here."""
        theirs, mine = self.code, code_version()
        return (theirs.codex_ray, theirs.source, theirs.dp_accounting) == (
            mine.codex_ray,
            mine.source,
            mine.dp_accounting,
        )


@lru_cache(maxsize=1)
def code_version() -> CodeVersion:
    """The code that runs here."""
    code = this_code()
    return CodeVersion(
        codex_ray=code.codex_ray,
        source=code.source,
        dp_accounting=code.dp_accounting,
        commit=_commit(Path(__file__).resolve().parent.parent),
    )


def _commit(package: Path) -> str | None:
    """The commit of the repository that tracks the package; None if none does, or without git."""
    # A package that is installed in somebody's repository must not take over its commit.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(package, "rev-parse", "HEAD")
    if not head:
        return None
    changed = _git(package, "status", "--porcelain", "--", ".")
    return head if changed == "" else f"{head}+changes"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
