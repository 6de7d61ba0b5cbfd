"""The canonical form of JSON, against the examples of RFC 8785 and its own inverse."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.records.canonical import canonical, digest, plain, read_json
from codex_ray.records.run_directory import to_json_bytes

# RFC 8785, appendix B: the bits of a double, and how it is written.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "written"), NUMBERS)
def test_numbers_are_written_as_the_rfc_writes_them(bits: str, written: str) -> None:
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]) == written.encode()


def test_keys_stand_in_the_order_of_their_utf_16_units() -> None:
    """RFC 8785, section 3.2.3: a surrogate pair comes before U+FB33, whatever code points say."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = json.loads(canonical(dict.fromkeys(names, 0)))
    assert list(found) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_are_escaped_as_little_as_json_allows() -> None:
    """RFC 8785, section 3.2.2."""
    text = '€$\u000f\nA\'B"\\\\"/'
    assert canonical(text) == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()


def test_one_value_has_one_form_whatever_its_layout() -> None:
    one, other = '{"b": 1.0, "a": [1e0, null]}', '{"a":[1,null],\n\n"b":1}'
    assert canonical(read_json(one)) == canonical(read_json(other)) == b'{"a":[1,null],"b":1}'


@pytest.mark.parametrize(
    "value", [math.inf, math.nan, 2**53 + 1, -(2**60), "\ud800", {1: 2}, {"a": {1, 2}}, b"x"]
)
def test_what_has_no_single_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(value)


def test_a_key_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        read_json('{"epsilon": 1, "epsilon": 2}')


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc€", max_size=3), inner),
    max_leaves=12,
)


@given(VALUES)
def test_what_a_file_gives_back_has_the_form_of_what_was_written(value: object) -> None:
    again = read_json(to_json_bytes({"value": value}).decode())
    assert again == plain({"value": value}) or value != value
    assert digest(again) == digest(plain({"value": value}))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(json.loads(canonical(value))) == value
