"""The schema: which columns records may have, what they may be used for, and how they are guarded.

It is an allow-list. Whatever it does not name is refused, so that a column that somebody adds to an
export does not travel on unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from codex_ray.data import prepared_manifest
from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError
from codex_ray.preparation.column import Column, Texts
from codex_ray.preparation.deal import Deal, OneEach
from codex_ray.preparation.masking import check_pattern, check_rules
from codex_ray.preparation.sources import Source
from codex_ray.types import Component

MISSING = ("", "?", "NA", "N/A", "null", "NULL")
"""What stands for no value where a schema says nothing else. NaN is not among them on purpose."""


class Anonymity(Component):
    """What every class of records that agree in all quasi-identifiers must have, in each client."""

    k: int = Field(ge=2, description="Records, at least (Sweeney 2002).")
    l: int = Field(  # noqa: E741  # its name in the literature
        default=1, ge=1, description="Different known values of each sensitive column and label."
    )
    entropy_l: float | None = Field(
        default=None, ge=1, description="Least exp(entropy) of those values (entropy l-diversity)."
    )
    t: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Largest distance of their distribution from the client's (t-closeness).",
    )
    relaxed: bool = Field(
        default=False,
        description="Whether equal values may fall on both sides of a cut (relaxed Mondrian).",
    )


class Schema(Component):
    """An allow-list of columns with their consents, and everything that preparing them needs."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Names the data set.")
    purpose: str = Field(min_length=1, description="What the records are prepared for.")
    consents: dict[str, Texts] = Field(
        description="Tag of a consent (or another legal ground) -> the purposes that it allows."
    )
    consent: str = Field(description="The tag that holds for a column that names no other.")
    missing: Texts = Field(default=MISSING, description="What stands for no value.")
    columns: dict[str, Column] = Field(description="Every column that a file may have.")
    patterns: dict[str, str] = Field(
        default_factory=dict, description="Masks of your own: name -> regular expression (RE2)."
    )
    anonymity: Anonymity | None = Field(
        default=None, description="What quasi-identifiers are generalised to."
    )
    delete_after: date | None = Field(
        default=None, description="The last day of the records: no run reads them after it."
    )
    smallest_cell: int = Field(
        default=10, ge=1, description="The card shows no count below this number."
    )
    source: Source = Field(discriminator="kind", description="Where the records are.")
    clients: Annotated[
        Deal,
        Field(discriminator="kind", description="Who holds which of them."),
        BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value),
    ] = OneEach()

    @model_validator(mode="after")
    def _consistent(self) -> Schema:
        for name, column in self.columns.items():
            if not name or "." in name or name != name.strip():
                raise ConfigError(f"columns.{name!r}: a name has no dot and no space at an end")
            column.check(name)
            self._check_consent(name, column)
            check_rules(column.masks or (), self.patterns, where=f"columns.{name}.masks")
        for name, pattern in self.patterns.items():
            check_pattern(name, pattern)
        if len(self.named("label")) != 1:
            raise ConfigError(
                f"columns: {len(self.named('label'))} have role label: give it to exactly one"
            )
        if not self.named("feature", "quasi_identifier", "sensitive"):
            raise ConfigError("columns: there is no feature: give some column that role")
        if (self.anonymity is None) == bool(self.named("quasi_identifier")):
            raise ConfigError(
                "anonymity.k: is missing: say how many records must agree in the quasi-identifiers"
                if self.anonymity is None
                else "anonymity: there is no column with role quasi_identifier: mark them, or take "
                "it out"
            )
        self.clients.check(self.columns)
        return self

    def _check_consent(self, name: str, column: Column) -> None:
        """Returns when the consent of a column covers the purpose, or the column is dropped."""
        tag = column.consent or self.consent
        where = "consent" if column.consent is None else f"columns.{name}.consent"
        if tag not in self.consents:
            raise ConfigError(f"{where}: {tag!r}: {did_you_mean(tag, list(self.consents))}")
        if column.role != "drop" and self.purpose not in self.consents[tag]:
            raise ConfigError(
                f"purpose: column {name!r} is used under consent {tag!r}, which allows "
                f"{', '.join(self.consents[tag]) or 'nothing'} and not {self.purpose!r}: "
                "set its role to drop, or ask for that consent"
            )

    def check_day(self) -> None:
        """Returns when the records may still be used.

        Raises:
            ConfigError: their last day is past.
        """
        last = self.delete_after
        if last is not None and prepared_manifest.today() > last:
            raise ConfigError(f"delete_after: {last} is past: these records are to be deleted")

    def named(self, *roles: str) -> dict[str, Column]:
        """The columns that have one of these roles, in the schema's order."""
        return {name: column for name, column in self.columns.items() if column.role in roles}

    @property
    def label(self) -> tuple[str, Column]:
        """The label's column."""
        return next(iter(self.named("label").items()))

    @property
    def sensitive(self) -> dict[str, Column]:
        """What l-diversity and t-closeness are about: the sensitive columns and the label."""
        return self.named("sensitive", "label")

    @property
    def may_name_persons(self) -> bool:
        """Whether any column of a file may hold names, which a slipped record has in others too."""
        columns = self.columns.values()
        return any(column.role == "identifier" or column.type == "text" for column in columns)

    @property
    def rules(self) -> dict[str, Any]:
        """Everything but where the records are: it is the same in every hospital."""
        return json.loads(  # type: ignore[no-any-return]  # an object, by its type
            self.model_dump_json(exclude={"source", "clients"})
        )

    @property
    def sha256(self) -> str:
        """The hash of the rules, as they lie in schema.json."""
        return hashlib.sha256(as_bytes(self.rules)).hexdigest()


def as_bytes(value: Any) -> bytes:
    """Plain data as the bytes of a JSON file: the same bytes for the same data."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")
