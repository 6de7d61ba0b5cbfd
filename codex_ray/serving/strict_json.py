"""JSON from strangers: one meaning or none, and no work that grows faster than its size.

Python's own reader takes NaN, lets the second of two equal keys win, and recurses as deep as the
text says. Whatever two readers could understand differently is refused here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from codex_ray.serving.http import Refused

DEEPEST: Final = 4
"""Of a request to predict: the object, its records, a record, and one to spare."""
LONGEST_NUMBER: Final = 40
"""Digits, sign, point and exponent: 17 digits say every float64."""

# A string is one token, closed or not, so that no second look begins inside it.
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def read_strict(body: bytes, *, deepest: int = DEEPEST) -> Any:
    """The value that `body` holds.

    Raises:
        Refused: 400, it is not UTF-8, not JSON, nested too deep, names a key twice, or holds NaN or
            Infinity, which are not JSON; 422, a number is too long or beyond float64.
    """
    check_depth(body, deepest=deepest)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "not_utf8") from None
    try:
        return json.loads(
            text,
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except (ValueError, RecursionError):
        raise Refused(400, "not_json") from None


def check_depth(body: bytes, *, deepest: int) -> None:
    """Refuses nesting beyond `deepest` without parsing: at the first bracket that goes too far.

    Raises:
        Refused: 400.
    """
    depth = 0
    for bracket in _STRINGS.sub(b"", body).translate(None, _BUT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > deepest:
                raise Refused(400, "nested_too_deep")
        else:
            depth -= 1


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused(400, "duplicate_key")
    return found


def _no_constant(_: str) -> NoReturn:
    raise Refused(400, "not_json")


def _finite(text: str) -> float:
    if len(text) > LONGEST_NUMBER:
        raise Refused(422, "number_too_long")
    value = float(text)
    if not math.isfinite(value):
        raise Refused(422, "number_not_finite")
    return value


def _short(text: str) -> int:
    # Python takes quadratic time to read a long integer, and refuses more than 4300 digits.
    if len(text) > LONGEST_NUMBER:
        raise Refused(422, "number_too_long")
    return int(text)
