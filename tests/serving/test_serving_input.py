"""What a request may hold, and that a wrong one is told where and never what."""

from __future__ import annotations

import time

import pytest
from asking import INPUTS, House

from codex_ray.serving.http import Refused
from codex_ray.serving.schema import Feature, InputSchema
from codex_ray.serving.strict_json import read_strict

MARK = "xyzzy4711"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b"nonsense", 400, "not_json"),
        (b'\xef\xbb\xbf{"records": [[60, 140, 1.5]]}', 400, "not_json"),
        (b'{"records": [["\xff"]]}', 400, "not_utf8"),
        (b'{"records": [[NaN, 140, 1.5]]}', 400, "not_json"),
        (b'{"records": [[60, Infinity, 1.5]]}', 400, "not_json"),
        (b'{"records": [[60, 140, -Infinity]]}', 400, "not_json"),
        (b'{"records": [[60, 140, 1e999]]}', 422, "number_not_finite"),
        (b'{"records": [[60, 140, -1e999]]}', 422, "number_not_finite"),
        (b'{"records": [[' + b"9" * 5000 + b", 140, 1.5]]}", 422, "number_too_long"),
        (b'{"records": [[0.' + b"1" * 100 + b", 140, 1.5]]}", 422, "number_too_long"),
        (b'{"records": [[60, 140, 1e39]]}', 422, "input_refused"),
        (b'{"records": [], "records": [[60, 140, 1.5]]}', 400, "duplicate_key"),
        (b'{"records": [{"age": 1, "age": 2, "pressure": 60, "depth": 0}]}', 400, "duplicate_key"),
        (b"[" * 200_000, 400, "nested_too_deep"),
        (b'{"a":' * 30_000, 400, "nested_too_deep"),
        (b'{"records": [[[[60]], 140, 1.5]]}', 400, "nested_too_deep"),
        (b'{"records": [[60, 140, 1.5]]} {}', 400, "not_json"),
        (b'{"records": [[060, 140, 1.5]]}', 400, "not_json"),
        (b'{"records": [[60, 140, 1.5],]}', 400, "not_json"),
    ],
)
def test_what_is_no_good_json(house: House, body: bytes, status: int, code: str) -> None:
    said = house.predict(body=body)
    assert (said.status, said.code) == (status, code)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("[]", {"in": "body", "is": "not an object with records alone"}),
        ("null", {"in": "body", "is": "not an object with records alone"}),
        ('{"records": []}', {"in": "records", "is": "not a list with something in it"}),
        ('{"records": {}}', {"in": "records", "is": "not a list with something in it"}),
        (
            f'{{"records": [[1]], "{MARK}": 1}}',
            {"in": "body", "is": "not an object with records alone"},
        ),
        ('{"records": [[60, 140]]}', {"at": 0, "is": "not as many values as features"}),
        ('{"records": [[60, 140, 1, 1]]}', {"at": 0, "is": "not as many values as features"}),
        (f'{{"records": ["{MARK}"]}}', {"at": 0, "is": "neither a list nor an object"}),
        (f'{{"records": [["{MARK}", 140, 1]]}}', {"feature": "age", "is": "not a number"}),
        ('{"records": [[true, 140, 1]]}', {"feature": "age", "is": "not a number"}),
        ('{"records": [[null, 140, 1]]}', {"feature": "age", "is": "not a number"}),
        ('{"records": [[60, [140], 1]]}', {"feature": "pressure", "is": "not a number"}),
        ('{"records": [[60.5, 140, 1]]}', {"feature": "age", "is": "not an integer"}),
        ('{"records": [[121, 140, 1]]}', {"feature": "age", "is": "out of range"}),
        ('{"records": [[60, 140, -5.1]]}', {"feature": "depth", "is": "out of range"}),
        ('{"records": [{"age": 60, "depth": 1}]}', {"at": 0, "is": "lacks a feature"}),
        (
            f'{{"records": [{{"age": 60, "pressure": 140, "depth": 1, "{MARK}": 1}}]}}',
            {"at": 0, "is": "has a field that is no feature"},
        ),
    ],
)
def test_what_the_model_does_not_take(house: House, body: str, problem: dict[str, object]) -> None:
    said = house.predict(body=body.encode())
    assert (said.status, said.code) == (422, "input_refused")
    (found,) = said.value["problems"]
    assert problem.items() <= found.items()
    assert MARK.encode() not in said.body


def test_a_hundred_problems_are_not_all_listed(house: House) -> None:
    body = b'{"records": [' + b",".join([b"[999, 999, 999]"] * 60) + b"]}"
    assert len(house.predict(body=body).value["problems"]) == 20


def test_so_many_records_and_no_more(house: House) -> None:
    for number, status in ((64, 200), (65, 422)):
        body = b'{"records": [' + b",".join([b"[60, 140, 1]"] * number) + b"]}"
        assert house.predict(body=body).status == status


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
        b'"' + rb"\"" * 5_000_000,
        b'"' * 10_000_001,
        b"[[]" * 1_000_000,
        b"\\" * 10_000_000,
    ],
)
def test_ten_megabytes_of_mischief_take_no_time(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Refused):
        read_strict(body)
    # Quadratic work on ten million bytes would take hours; linear work takes a second or two.
    assert time.process_time() - began < 10.0


def test_brackets_in_strings_are_no_nesting() -> None:
    assert read_strict(b'{"a[[[[[[": "\\"[[[[[{{{{{"}') == {"a[[[[[[": '"[[[[[{{{{{'}


def test_a_schema_that_does_not_fit_its_shape_is_none() -> None:
    with pytest.raises(ValueError, match="shape"):
        InputSchema((Feature("a"),), (2,))
    with pytest.raises(ValueError, match="name"):
        InputSchema((Feature("a"), Feature("a")), (2,))


def test_records_take_the_shape_and_scale_of_the_model() -> None:
    schema = INPUTS.schema_for((1, 3))
    records = schema.read({"records": [[60, 140, 1.5], [50, 130, 0]]})
    assert records.shape == (2, 1, 3)
    scaled = INPUTS.scaler((1, 3))(records)
    assert scaled.tolist() == [[[1.0, 0.5, 1.5]], [[0.0, 0.0, 0.0]]]
