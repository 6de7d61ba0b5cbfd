"""`codex-ray bench train` where something cannot be compiled, and what nothing is asked of."""

from __future__ import annotations

import pytest
import torch

from codex_ray.bench.bars import Figure, Row, at_least
from codex_ray.bench.train import PARTS


def test_what_cannot_be_compiled_is_a_row_and_no_end_of_the_others(monkeypatch) -> None:
    def compile_(function, **options):
        def call(*arguments):
            raise RuntimeError("No working C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    (row,) = PARTS["compiled-epoch"](0.01)
    assert row.found == "not compiled here: RuntimeError: No working C++ compiler found"
    assert row.figures == () and row.to_json()["holds"] is None


@pytest.mark.parametrize(("value", "holds"), [(2.0, True), (0.5, False)])
def test_a_verdict_is_on_what_is_asked(value: float, holds: bool) -> None:
    asked, told = at_least("ratio", value, 1.0), Figure("rate", 3.0)
    assert Row("a", "", "", (asked, told)).to_json()["holds"] is holds
    assert Row("a", "", "", (told,)).to_json()["holds"] is None
