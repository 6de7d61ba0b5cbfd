"""The one byte string of a JSON value, so that a signature covers what is said and not its layout.

RFC 8785 (JSON Canonicalization Scheme): no white space, keys in the order of their UTF-16 code
units, strings escaped as little as JSON allows, numbers as ECMAScript prints the double that they
are. So 1, 1.0 and 1e0 are one number, and whoever has a library for that RFC finds the same bytes.
What is no number in JSON (infinity) is text there already: see `run_directory.to_json_bytes`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

LARGEST_EXACT: Final = 2**53
"""Beyond it not every integer is a double, so two different ones would be signed alike."""


def canonical(value: Any) -> bytes:
    """The canonical form of plain data: mappings, lists, texts, numbers, booleans and None.

    Raises:
        ValueError: there is no canonical form: infinity, NaN, an integer beyond 2^53, half a
            surrogate pair, a key that is no text, or an object that JSON does not know.
    """
    return _written(value).encode("utf-8")


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def plain(value: Any) -> Any:
    """`value` as a file of `to_json_bytes` gives it back: tuples are lists, infinity is "inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def read_json(text: str) -> Any:
    """The value that JSON text holds.

    Raises:
        ValueError: it is no JSON, or an object names a key twice: readers would disagree on it.
    """
    return json.loads(text, object_pairs_hook=_no_key_twice)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a key twice")
    return found


def _written(value: Any) -> str:
    match value:
        case None | True | False:
            return json.dumps(value)
        case int():
            if abs(value) > LARGEST_EXACT:
                raise ValueError(f"{value} is beyond 2^53: write it as text")
            return str(value)
        case float():
            return _number(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return "[" + ",".join(_written(inner) for inner in value) + "]"
        case dict():
            return "{" + ",".join(_member(*item) for item in sorted(value.items(), key=_key)) + "}"
    raise ValueError(f"a {type(value).__name__} has no canonical form")


def _key(item: tuple[Any, Any]) -> bytes:
    if not isinstance(item[0], str):
        raise ValueError(f"the key {item[0]!r} is no text")
    return item[0].encode("utf-16-be")


def _member(name: str, value: Any) -> str:
    return f"{json.dumps(name, ensure_ascii=False)}:{_written(value)}"


def _number(value: float) -> str:
    """The shortest decimal that reads back as `value`, laid out as ECMAScript does."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no JSON number: write it as text")
    if value == 0:
        return "0"  # and so is -0
    sign = "-" if value < 0 else ""
    parts = Decimal(repr(abs(value))).normalize().as_tuple()
    digits = "".join(map(str, parts.digits))
    assert isinstance(parts.exponent, int)  # It is a letter only for what is not finite.
    count, point = len(digits), len(digits) + parts.exponent
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    fraction = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'+' if power > 0 else '-'}{abs(power)}"
