"""Whether a function gives the same records each time that it is called.

The first pass decides who holds a record and which class it falls into, by its place; the second
writes. Were the records in another order then, each would carry another's class, and k, l and t on
the card would be those of records that are not there. Files are held to their SHA-256 instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from codex_ray.errors import DataError
from codex_ray.preparation.batches import Unit
from codex_ray.preparation.checking import Checked
from codex_ray.preparation.duplicates import exact_hashes


@dataclass
class Running:
    """A hash over the records of a unit, in their order, however they are cut into batches."""

    unit: Unit
    _hash: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, batch: Checked) -> None:
        """Takes in a batch, identifiers and texts as well; nothing of what has files."""
        if not self.unit.files:
            self._hash.update(exact_hashes(batch.columns, batch.count).tobytes())

    @property
    def digest(self) -> str:
        """Of all records so far; "" of what has files."""
        return "" if self.unit.files else self._hash.hexdigest()

    def check(self, digest: str) -> None:
        """Returns when it is that of the first time.

        Raises:
            DataError: it is another.
        """
        if self.digest != digest:
            raise DataError(
                f"{self.unit.name}: its records changed while they were being prepared: a function "
                "must give the same ones, in the same order, each time that it is called"
            )
