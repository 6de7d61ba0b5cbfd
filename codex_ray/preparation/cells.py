"""The values of one column, read as what the schema says that they are, or refused by their row."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.preparation.batches import shown
from codex_ray.preparation.column import NO, YES, Column

Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Cells: TypeAlias = Floats | Codes | pa.Array
"""Numbers (days, for a date) with NaN, codes with -1, or strings with null, where there is none."""

MOST = 20
"""Bad cells of a column and batch that are told of."""

_NUMBER = r"^\+?-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?(?i:inf|infinity|nan)$"


@dataclass(frozen=True)
class Reader:
    """Reads batches of one column by its rules.

    Attributes:
        column: the rules.
        missing: what stands for no value, of the schema and the column.
        quiet: whether a cell of the wrong type is not quoted, because it may be a name that
            slipped in from another column.
    """

    column: Column
    missing: frozenset[str]
    quiet: bool = False

    def read(self, raw: pa.Array) -> tuple[Cells, list[tuple[int, str]]]:
        """The values [n], and the place from 0 of each bad cell with what is wrong with it."""
        bad = _Bad(self.column, self.quiet)
        if pa.types.is_dictionary(raw.type):
            raw = raw.dictionary_decode()
        named = self.column.role == "identifier"
        if named and not _is_text(raw.type):
            raw = self._as_text(raw, bad)
        if pa.types.is_null(raw.type):
            raw = raw.cast(pa.string())
        text = self._texts(raw, bad) if _is_text(raw.type) else None
        match self.column.type:
            case "number" | "integer":
                values: Cells = self._numbers(raw, text, bad)
            case "date":
                values = self._dates(raw, text, bad)
            case "flag":
                values = self._flags(raw, text, bad)
            case "category" if self.column.role not in ("identifier", "drop"):
                values = self._categories(raw, text, bad)
            case _:
                values = text if text is not None else raw.cast(pa.string())
        if named and text is not None:  # checked, but kept as it was written: 007 is not 7
            values = text
        if self.column.required:
            bad.add(~there(values) & ~bad.marked(len(raw)), "it is missing, but required", None)
        return values, bad.found

    def none(self, count: int) -> Cells:
        """What a column that a file does not have comes to."""
        return self.read(pa.nulls(count, pa.string()))[0]

    @cached_property
    def _numeric_missing(self) -> Floats:
        """Missing tokens that are numbers: -9 stands for -9.0 as well."""
        found = []
        for token in self.missing:
            try:
                found.append(float(token))
            except ValueError:
                continue
        return np.array(found, dtype=np.float64)

    def _as_text(self, raw: pa.Array, bad: _Bad) -> pa.Array:
        """Identifiers that a file holds as numbers, dates or flags; NaN names nobody."""
        if pa.types.is_floating(raw.type):
            odd = ~np.isfinite(_as_numpy(raw)) & ~_nulls(raw)
            if np.isnan(self._numeric_missing).any():
                raw = pc.if_else(pc.is_nan(raw), pa.scalar(None, raw.type), raw)
            bad.add(odd & ~_nulls(raw), "it is not finite: correct or remove the record", None)
        return raw.cast(pa.string())

    def _texts(self, raw: pa.Array, bad: _Bad) -> pa.Array:
        """The cells as trimmed strings, null where missing."""
        try:
            text = raw.cast(pa.string())
        except pa.ArrowInvalid:
            cells = raw.to_pylist()
            broken = np.array([cell is not None and not _decodes(cell) for cell in cells])
            bad.add(broken, "it is no UTF-8: save the file as UTF-8", None)
            text = pa.array(
                [
                    None if wrong else cell and cell.decode()
                    for cell, wrong in zip(cells, broken, strict=True)
                ],
                pa.string(),
            )
        text = pc.utf8_trim_whitespace(text)
        tokens = pa.array(sorted(self.missing), pa.string())
        return pc.if_else(pc.is_in(text, value_set=tokens), pa.scalar(None, pa.string()), text)

    def _numbers(self, raw: pa.Array, text: pa.Array | None, bad: _Bad) -> Floats:
        """Finite numbers in the range."""
        values = self._parsed(raw, text, bad)
        missing = np.isin(values, self._numeric_missing[np.isfinite(self._numeric_missing)])
        odd = ~np.isfinite(values) & ~_nulls(text if text is not None else raw)
        if np.isnan(self._numeric_missing).any():
            odd &= ~np.isnan(values)
        bad.add(
            odd & ~bad.marked(len(values)), "it is not finite: correct or remove the record", values
        )
        values = np.where(missing | odd, np.nan, values)
        if self.column.type == "integer":
            broken = ~np.isnan(values) & (values != np.round(values))
            bad.add(broken, "it is no whole number", values)
        self._in_range(values, bad)
        return values

    def _parsed(self, raw: pa.Array, text: pa.Array | None, bad: _Bad) -> Floats:
        """The numbers that the cells say, NaN where there is none."""
        if text is None:
            if not (_is_number(raw.type) or pa.types.is_boolean(raw.type)):
                bad.add(~_nulls(raw), f"it is a {raw.type}, and no {self.column.type}", None)
                return np.full(len(raw), np.nan)
            return _as_numpy(raw.cast(pa.float64(), safe=False))
        fits = pc.fill_null(pc.match_substring_regex(text, _NUMBER), True)
        wrong = ~_as_bools(fits)
        bad.add(wrong, f"it is no {self.column.type}", text)
        if wrong.any():
            text = pc.if_else(pa.array(~wrong), text, pa.scalar(None, pa.string()))
        return _as_numpy(pc.utf8_ltrim(text, "+").cast(pa.float64()))

    def _dates(self, raw: pa.Array, text: pa.Array | None, bad: _Bad) -> Floats:
        """Days since 1970-01-01, in the range."""
        if text is not None:
            fits = pc.fill_null(
                pc.match_substring_regex(text, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), False
            )
            plain = pc.if_else(fits, text, pa.scalar(None, pa.string()))
            days = pc.strptime(plain, format="%Y-%m-%d", unit="s", error_is_null=True)
            days = days.cast(pa.date32())
            # The 31st of February is read as the 2nd of March, and so does not come back.
            same = _as_bools(pc.fill_null(pc.equal(days.cast(pa.string()), text), False))
            bad.add(~same & ~_nulls(text), "it is no date as YYYY-MM-DD", text)
        elif pa.types.is_date(raw.type) or pa.types.is_timestamp(raw.type):
            days = raw
        else:
            bad.add(~_nulls(raw), f"it is a {raw.type}, and no date", None)
            return np.full(len(raw), np.nan)
        values = _as_numpy(days.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.float64()))
        self._in_range(values, bad)
        return values

    def _in_range(self, values: Floats, bad: _Bad) -> None:
        if self.column.range is None:
            return
        low, high = self.column.ends
        with np.errstate(invalid="ignore"):
            outside = (values < low) | (values > high)
        ends = "[{}, {}]".format(
            *(e if isinstance(e, str) else f"{e:g}" for e in self.column.range)
        )
        shown_as = values if self.column.type != "date" else None
        bad.add(outside, f"it is outside {ends}: correct it, or widen the range", shown_as)

    def _flags(self, raw: pa.Array, text: pa.Array | None, bad: _Bad) -> Codes:
        """0, 1 or -1."""
        if text is None:
            values = self._parsed(raw, None, bad)
            wrong = ~np.isnan(values) & ~np.isin(values, (0.0, 1.0))
            bad.add(wrong & ~bad.marked(len(values)), "it is no flag: write 0 or 1", values)
            return np.where(np.isnan(values) | wrong, -1, values).astype(np.int32)
        lower = pc.utf8_lower(text)
        is_yes = _as_bools(pc.is_in(lower, value_set=pa.array(YES)))
        is_no = _as_bools(pc.is_in(lower, value_set=pa.array(NO)))
        bad.add(~is_yes & ~is_no & ~_nulls(text), "it is no flag: write 0 or 1", text)
        return np.where(is_yes, 1, np.where(is_no, 0, -1)).astype(np.int32)

    def _categories(self, raw: pa.Array, text: pa.Array | None, bad: _Bad) -> Codes:
        """The place of each value among those allowed, -1 where there is none."""
        options = pa.array(self.column.options, pa.string())
        if text is None and pa.types.is_boolean(raw.type):
            text = raw.cast(pa.string())
        numbers = _numbers_of(self.column.options)
        if numbers is not None:  # so that 1 is 1.0, however a file writes it
            values = self._parsed(raw, text, bad)
            values[np.isin(values, self._numeric_missing)] = np.nan
            codes = np.full(len(values), -1, np.int32)
            for code, number in enumerate(numbers):
                codes[values == number] = code
            unknown, said = (codes < 0) & ~np.isnan(values), values
        else:
            text = raw.cast(pa.string()) if text is None else text
            codes = _as_numpy(pc.fill_null(pc.index_in(text, value_set=options), -1))
            unknown, said = (codes < 0) & ~_nulls(text), text
        listed = ", ".join(self.column.options[:8]) + (", ..." if len(options) > 8 else "")
        bad.add(unknown, f"it is none of the values of the schema ({listed})", said)
        return codes


@dataclass
class _Bad:
    """Bad cells of a column as they are found."""

    column: Column
    quiet: bool
    found: list[tuple[int, str]] = field(default_factory=list)
    masks: list[Bools] = field(default_factory=list)

    def add(self, mask: Bools, why: str, values: Floats | pa.Array | None) -> None:
        """Notes the marked cells, with what stands there unless that names a person."""
        if not mask.any():
            return
        self.masks.append(mask)
        quiet = values is None or self.column.role == "identifier" or self.column.type == "text"
        quiet = quiet or (self.quiet and isinstance(values, pa.Array))  # numbers may be shown
        for place in np.flatnonzero(mask)[:MOST]:
            said = why
            if not quiet:
                value = values[int(place)]  # type: ignore[index]  # None is quiet
                plain = value.as_py() if isinstance(value, pa.Scalar) else f"{value:g}"
                said = f"{shown(plain)}: {why}"
            self.found.append((int(place), said))

    def marked(self, count: int) -> Bools:
        """Which of `count` cells are bad so far."""
        return np.asarray(np.logical_or.reduce([np.zeros(count, dtype=bool), *self.masks]))


def there(values: Cells) -> Bools:
    """Where there is a value."""
    if isinstance(values, pa.Array):
        return ~_nulls(values)
    return np.asarray(values >= 0) if values.dtype.kind == "i" else ~np.isnan(values)


def _numbers_of(options: tuple[str, ...]) -> list[float] | None:
    """The options as numbers, if every one is a different number."""
    try:
        numbers = [float(option) for option in options]
    except ValueError:
        return None
    return numbers if len(set(numbers)) == len(numbers) else None


def _decodes(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    more = (pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, *more))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _nulls(array: pa.Array) -> Bools:
    return _as_bools(pc.is_null(array))


def _as_bools(array: pa.Array) -> Bools:
    found: Bools = array.to_numpy(zero_copy_only=False).astype(bool)
    return found


def _as_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """Numbers; null becomes NaN where they are floats."""
    found: npt.NDArray[Any] = np.array(array.to_numpy(zero_copy_only=False))
    return found
