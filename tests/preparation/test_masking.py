"""Texts lose what names a person, and no pattern can stall them."""

import time

import pyarrow as pa
import pytest

from codex_ray.errors import ConfigError
from codex_ray.preparation.masking import check_pattern, check_rules, masked


def one(text: str, **more) -> str:
    arguments = {"chosen": None, "own": {}} | more
    return masked(pa.array([text]), **arguments)[0].as_py()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to anna.k+x@clinic-bonn.example.org today", "write to [email] today"),
        ("müller@köln.de", "[email]"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [iban], thanks"),
        ("GB29NWBK60161331926819", "[iban]"),
        ("from 192.168.17.4 on", "from [ip] on"),
        ("at 2001:db8:0:0:0:0:0:1 now", "at [ip] now"),
        ("born 03.12.1958, seen 2020-01-31 and 1/2/2020", "born [date], seen [date] and [date]"),
        ("call +49 (221) 4711-0815!", "call [phone]!"),
        ("call 0221 471108 or 555-867-5309", "call [phone] or [phone]"),
        ("case 12345678", "case [digits]"),
        ("dose 12.5 mg, 3 times, room 4711", "dose 12.5 mg, 3 times, room 4711"),
    ],
)
def test_patterns_find_what_they_name_and_nothing_else(text, left):
    assert one(text) == left


def test_only_chosen_masks_and_own_patterns_are_applied():
    assert one("ward-7 of 12345678", chosen=["ward"], own={"ward": r"ward-\d"}) == (
        "[ward] of 12345678"
    )


def test_the_identifiers_of_a_record_are_masked_in_its_own_text():
    texts = pa.array(["ANNA KOWALSKA came with Bernd", "Bernd came", None, "a.b and axb"])
    names = pa.array(["Anna Kowalska", "Bernd", "Cem", "a.b"])
    made = masked(texts, chosen=[], own={}, identifiers=[names]).to_pylist()
    assert made == ["[identifier] came with Bernd", "[identifier] came", None,
                    "[identifier] and axb"]  # fmt: skip


def test_a_catastrophic_pattern_takes_no_time():
    """(a+)+$ would take 2^50000 steps where patterns backtrack."""
    began = time.process_time()
    assert one("a" * 50_000 + "!", chosen=["bad"], own={"bad": "(a+)+$"}).endswith("a!")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "pattern", "match"),
    [
        ("case", "(", "RE2 does not take it"),
        ("case", r"(a)\1", "RE2 does not take it"),
        ("case", "(?=a)", "RE2 does not take it"),
        ("case", "a*", "finds the empty text everywhere"),
        ("email", "a", "name it in small letters, and unlike"),
        (r"a\1", "a", "name it in small letters"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(name, pattern, match):
    with pytest.raises(ConfigError, match=match):
        check_pattern(name, pattern)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'email'"):
        check_rules(["emial"], {}, where="columns.note.masks")
