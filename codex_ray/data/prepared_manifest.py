"""What a folder of prepared records says of itself: `manifest.json` and its hashes."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from codex_ray.errors import DataError
from codex_ray.types import Component

MANIFEST: Final = "manifest.json"
SCHEMA: Final = "schema.json"
CARD: Final = "card.json"
PAGE: Final = "card.html"
SHARDS: Final = "shards"

JOINS: Final = " | "
"""What stands between the values of a set of categories."""

NONE: Final = "(none)"
"""How a category without a value is called among generalised ones."""

ANY: Final = "*"
"""The root of every hierarchy: it could be any value."""

Sha256 = Field(pattern="^[0-9a-f]{64}$")


class Encoding(Component):
    """How a column of a shard becomes features.

    A number is one feature; if it is generalised, the middle of `NAME.low` and `NAME.high`. A
    category is one feature for each of its values; a set, or a group of the hierarchy, is spread
    evenly over the values in it.
    """

    name: str
    kind: Literal["number", "flag", "category"]
    low: float = 0.0
    high: float = 1.0
    generalised: bool = False
    values: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it becomes."""
        if self.kind == "category":
            return tuple(f"{self.name}={value}" for value in self.values)
        return (self.name,)


class Label(Component):
    """The column of the label: classes from 0."""

    name: str
    classes: int = Field(ge=2)
    values: tuple[str, ...] = ()


class Shard(Component):
    """One client's file."""

    client: str
    file: str = Field(pattern=r"^shards/[\w-]+\.parquet$")
    sha256: str = Sha256
    records: int = Field(ge=1)


class Manifest(Component):
    """Everything that a reader needs besides the shards."""

    version: Literal[1] = 1
    name: str
    purpose: str
    schema_sha256: str = Sha256
    card_sha256: str = Sha256
    pseudonym_key: str | None = None
    delete_after: date | None = None
    features: tuple[Encoding, ...]
    label: Label
    shards: tuple[Shard, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features, in their order [d]."""
        return tuple(name for encoding in self.features for name in encoding.features)


def today() -> date:
    """The day by the machine's clock, in UTC."""
    return datetime.now(UTC).date()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder whose schema and card are those that it names.

    Raises:
        DataError: as `manifest_and_content`.
    """
    return manifest_and_content(folder)[0]


def manifest_and_content(folder: Path) -> tuple[Manifest, bytes]:
    """The same, and the bytes that it was read from.

    Raises:
        DataError: there is none, it is no manifest, or the schema or the card is another.
    """
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
        manifest = Manifest.model_validate(json.loads(content.decode()))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: holds no {MANIFEST}: make the folder with codex-ray data prepare"
        ) from None
    except (OSError, ValueError, ValidationError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{file}: is no manifest of this version ({said})") from None
    for name, sha256 in ((SCHEMA, manifest.schema_sha256), (CARD, manifest.card_sha256)):
        read_vouched(folder / name, sha256)
    return manifest, content


def read_vouched(file: Path, sha256: str) -> bytes:
    """The content of a file that has the hash in the manifest.

    Raises:
        DataError: it has another, or cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _other(file)
    return content


def check_vouched(file: Path, sha256: str) -> None:
    """Returns when the file has the hash in the manifest; it is read in blocks, and not kept.

    Raises:
        DataError: as `read_vouched`.
    """
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from None
    if found != sha256:
        raise _other(file)


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(f"{file}: cannot be read: {error.strerror or error}")


def _other(file: Path) -> DataError:
    return DataError(f"{file}: is not the file of its manifest: prepare the records again")
