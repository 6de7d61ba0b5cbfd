"""One column of the allow-list: what it may hold, what it is for, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, field_validator

from codex_ray.data.prepared_manifest import ANY, NONE
from codex_ray.errors import ConfigError
from codex_ray.types import Component

ColumnType: TypeAlias = Literal["number", "integer", "category", "text", "date", "flag"]
Role: TypeAlias = Literal["identifier", "quasi_identifier", "sensitive", "feature", "label", "drop"]

NO, YES = ("0", "0.0", "false", "no", "n", "f"), ("1", "1.0", "true", "yes", "y", "t")
"""How a flag is written, in any case."""

_EPOCH = date(1970, 1, 1).toordinal()


def _texts(values: object) -> object:
    """The values as text: YAML reads 1 and yes as something else."""
    if isinstance(values, list | tuple):
        return [_text(value) for value in values]
    return values


def _text(value: object) -> object:
    if isinstance(value, bool):
        raise ConfigError(f"values: YAML reads yes, no, on and off as {value}: put them in quotes")
    return str(value) if isinstance(value, int | float | date) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


def _tree(value: object) -> object:
    """A hierarchy with every name and value as text."""
    if isinstance(value, Mapping):
        return {str(name): _tree(below) for name, below in value.items()}
    return _texts(value)


Hierarchy = Annotated[dict[str, Any], BeforeValidator(_tree)]
"""Name of a group -> its values as a list, or its own groups as a mapping."""


def _leaves(tree: object) -> Iterator[str]:
    """The values under a node, in the order they are written in."""
    if isinstance(tree, Mapping):
        for below in tree.values():
            yield from _leaves(below)
    elif isinstance(tree, list | tuple):
        yield from tree
    else:
        raise ConfigError(f"hierarchy: {tree!r} is neither a list of values nor a mapping of them")


def _nodes(tree: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every node and the values under it, those above before those below."""
    for name, below in tree.items():
        yield name, tuple(_leaves(below))
        if isinstance(below, Mapping):
            yield from _nodes(below)


class Column(Component):
    """What a column may hold, its role, and the consent that it is used under."""

    type: ColumnType = Field(description="What its values are.")
    role: Role = Field(
        description="identifier: dropped, or a keyed pseudonym. quasi_identifier: generalised. "
        "sensitive: a feature that l-diversity and t-closeness are about. feature; label; drop."
    )
    range: tuple[float, float] | tuple[str, str] | None = Field(
        default=None, description="Public range, ends included; of a date as YYYY-MM-DD."
    )
    values: Texts = Field(default=(), description="What a category may be, in a sensible order.")
    unit: str = Field(default="", description="Unit of a number: years, mg/dl, ...")
    description: str = Field(default="", description="What it is, for the card.")
    consent: str | None = Field(
        default=None, description="Tag of the consent it is used under; else that of the schema."
    )
    required: bool = Field(
        default=True, description="Whether every file must have it, and every record a value."
    )
    missing: Texts = Field(
        default=(), description="What stands for no value here, besides the tokens of the schema."
    )
    pseudonym: bool = Field(
        default=False, description="Keep an identifier as a keyed pseudonym instead of dropping it."
    )
    hierarchy: Hierarchy | None = Field(
        default=None, description="Groups that a category is generalised to, nested; else sets."
    )
    masks: tuple[str, ...] | None = Field(
        default=None, description="Patterns masked in a text; default: every one that there is."
    )
    positive_above: float | None = Field(
        default=None, description="Turns a graded label into 1 above this number and 0 else."
    )

    @field_validator("range", mode="before")
    @classmethod
    def _dates_as_text(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return [end.isoformat() if isinstance(end, date) else end for end in value]
        return value

    @property
    def numeric(self) -> bool:
        """Whether its values lie on a line: numbers, integers and dates."""
        return self.type in ("number", "integer", "date")

    @property
    def used(self) -> bool:
        """Whether anything of it can get into a shard."""
        return self.role != "drop" and not (self.role == "identifier" and not self.pseudonym)

    @property
    def ends(self) -> tuple[float, float]:
        """The public range as numbers: of a date, days since 1970-01-01."""
        if self.range is None:
            return (0.0, 1.0)
        low, high = self.range
        return _number(low), _number(high)

    @property
    def options(self) -> tuple[str, ...]:
        """What a category may be; in the order of the hierarchy if it has one."""
        if self.type == "flag":
            return ("0", "1")
        return tuple(_leaves(self.hierarchy)) if self.hierarchy else self.values

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Name of each group of the hierarchy -> the values under it."""
        return dict(_nodes(self.hierarchy)) if self.hierarchy else {}

    def check(self, name: str) -> None:
        """Returns when the column makes sense.

        Raises:
            ConfigError: it does not; the message names the field.
        """
        where = f"columns.{name}"
        self._check_range(where)
        self._check_values(where)
        if self.pseudonym and self.role != "identifier":
            raise ConfigError(f"{where}.pseudonym: only an identifier becomes a pseudonym")
        if self.role == "label" and self.type not in ("category", "flag", "integer", "number"):
            raise ConfigError(f"{where}.type: a {self.type} cannot be the label")
        if self.role == "label" and not self.required:
            raise ConfigError(f"{where}.required: a record without a label teaches nothing")
        whole = self.type == "integer" and self.positive_above is None
        if self.role == "label" and whole and self.ends[0] != 0:
            raise ConfigError(f"{where}.range: number the classes from 0")
        if self.role == "label" and self.type == "number" and self.positive_above is None:
            raise ConfigError(f"{where}.positive_above: is missing: a number is no class")
        if self.positive_above is not None and (self.role != "label" or not self.numeric):
            raise ConfigError(f"{where}.positive_above: is for a label that is a number")
        if self.role in ("quasi_identifier", "sensitive") and self.type == "text":
            raise ConfigError(f"{where}.type: a text cannot be a {self.role}: make it a category")
        if self.masks is not None and self.type != "text":
            raise ConfigError(f"{where}.masks: are for a text")

    def _check_range(self, where: str) -> None:
        if not self.numeric:
            if self.range is not None:
                raise ConfigError(f"{where}.range: a {self.type} has none: take it out")
            return
        if self.range is None:
            if self.role in ("identifier", "drop"):
                return
            raise ConfigError(f"{where}.range: is missing: write the public range, [low, high]")
        if any(isinstance(end, str) for end in self.range) != (self.type == "date"):
            raise ConfigError(f"{where}.range: write numbers, and for a date [YYYY-MM-DD, ...]")
        try:
            low, high = self.ends
        except ValueError:
            raise ConfigError(f"{where}.range: write each end as YYYY-MM-DD") from None
        if not low < high:
            raise ConfigError(f"{where}.range: is empty: write the lower end first")

    def _check_values(self, where: str) -> None:
        if self.type != "category":
            if self.values or self.hierarchy is not None:
                raise ConfigError(f"{where}.values: are for a category: take them out")
            return
        if self.hierarchy is not None and self.role != "quasi_identifier":
            raise ConfigError(f"{where}.hierarchy: only a quasi_identifier is generalised")
        options = self.options
        if not options and self.role not in ("identifier", "drop"):
            raise ConfigError(f"{where}.values: is missing: list what the category may be")
        if len(set(options)) < len(options):
            raise ConfigError(f"{where}.values: a value is listed twice")
        if self.values and set(self.values) != set(options):
            raise ConfigError(f"{where}.hierarchy: its values are not those of values")
        names = list(self.groups)
        if len({*names, *options}) < len(names) + len(options):
            raise ConfigError(f"{where}.hierarchy: a group has the name of a value or of a group")
        odd = [v for v in (*options, *names) if "|" in v or v != v.strip() or v in ("", NONE, ANY)]
        if odd:
            raise ConfigError(
                f"{where}.values: {odd[0]!r}: write it without |, and without space at its ends"
            )


def _number(end: float | str) -> float:
    if isinstance(end, str):
        return float(date.fromisoformat(end).toordinal() - _EPOCH)
    return float(end)
