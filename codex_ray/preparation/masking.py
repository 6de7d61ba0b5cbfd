"""What may name a person inside a text is replaced by the name of the pattern that found it.

Patterns run in RE2, whose time grows linearly with the text whatever the pattern: a catastrophic
one such as (a+)+$ cannot stall a preparation, and what would need backtracking (look-around,
back-references) is refused when the schema is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from unicodedata import combining, normalize

import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError

PATTERNS = {
    "email": r"[\p{L}\p{N}._%+\-]+@[\p{L}\p{N}\-]+(\.[\p{L}\p{N}\-]+)+",
    "iban": r"\b[A-Z]{2}[0-9]{2}( ?[A-Z0-9]{4}){2,7}( ?[A-Z0-9]{1,4})?\b",
    "ip": r"\b([0-9]{1,3}\.){3}[0-9]{1,3}\b|\b([0-9A-Fa-f]{1,4}:){3,7}:?[0-9A-Fa-f]{0,4}\b",
    "date": r"\b([0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}[./\-][0-9]{1,2}[./\-][0-9]{2,4})\b",
    "phone": r"(\+|\b00)[0-9][0-9 ()/.\-]{5,18}[0-9]"
    r"|\(?\b0[0-9]{1,5}\)?[ /\-][0-9][0-9 \-]{3,12}[0-9]"
    r"|\(?\b[0-9]{3}\)?[ .\-][0-9]{3}[ .\-][0-9]{4}\b",
    "digits": r"[0-9]{6,}",
}
"""The masks that a text gets unless its column says otherwise, in the order of application."""

SHORTEST = 3
"""An identifier's value of fewer letters is not looked for in a text: it is in every word."""

_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")
"""Letters and digits, with accents that are characters of their own."""

_APART = 3
"""Letters, at most, between two words of an identifier that stand together: ", " and " - "."""


def check_pattern(name: str, pattern: str) -> None:
    """Returns when a pattern of the user's own can be used.

    Raises:
        ConfigError: RE2 does not take it, it matches nothing at all, or its name is no name.
    """
    where = f"patterns.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in PATTERNS:
        raise ConfigError(f"{where}: name it in small letters, and unlike {', '.join(PATTERNS)}")
    try:
        empty = pc.match_substring_regex(pa.array([""]), pattern)[0].as_py()
    except pa.ArrowInvalid as error:
        said = str(error).rpartition("regular expression: ")[2]
        raise ConfigError(f"{where}: RE2 does not take it ({said}): write it without") from None
    if empty:
        raise ConfigError(f"{where}: it finds the empty text everywhere: write + instead of *")


def check_rules(chosen: Iterable[str], own: Mapping[str, str], *, where: str) -> None:
    """Returns when every chosen mask is one that there is.

    Raises:
        ConfigError: one is not; the message proposes the nearest.
    """
    known = [*PATTERNS, *own]
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{where}: there is no {name!r}: {did_you_mean(name, known)}")


def masked(
    texts: pa.Array,
    *,
    chosen: Sequence[str] | None,
    own: Mapping[str, str],
    identifiers: Sequence[pa.Array] = (),
) -> pa.Array:
    """The texts with every find replaced by [pattern], and a record's own identifiers as well.

    Args:
        texts: strings [n], null where there is none.
        chosen: the masks to apply; None: every one.
        own: the user's own patterns, which come first.
        identifiers: raw values [n] of each identifier; those of a record are masked in its text.
    """
    for values in identifiers:
        texts = _without(texts, values)
    for name, pattern in {**own, **PATTERNS}.items():
        if chosen is None or name in chosen:
            texts = pc.replace_substring_regex(texts, pattern, f"[{name}]")
    return texts


def _without(texts: pa.Array, values: pa.Array) -> pa.Array:
    """The texts without the value that stands in the same record, whole or word by word."""
    found = []
    for text, value in zip(texts.to_pylist(), values.to_pylist(), strict=True):
        named = text is not None and value is not None and len(value) >= SHORTEST
        found.append(_without_words(_replaced(text, value), value) if named else text)
    return pa.array(found, pa.string())


def _without_words(text: str, value: str) -> str:
    """The text without the words of a value, in any order: "Kowalska, Anna" is Anna Kowalska too.

    A word of fewer than `SHORTEST` letters goes only beside a longer one, or beside all the others.
    """
    sought = {_folded(word) for word in _WORD.findall(value)}
    runs: list[list[tuple[int, int, str]]] = []
    for start, end, word in _found(text, sought):
        if runs and _beside(text, runs[-1][-1][1], start):
            runs[-1].append((start, end, word))
        else:
            runs.append([(start, end, word)])
    parts, done = [], 0
    for run in runs:
        words = {word for _, _, word in run}
        if max(map(len, words)) >= SHORTEST or len(words) == len(sought) > 1:
            parts += [text[done : run[0][0]], "[identifier]"]
            done = run[-1][1]
    return "".join([*parts, text[done:]])


def _found(text: str, sought: set[str]) -> list[tuple[int, int, str]]:
    """Where words of the text are sought ones: start, end and the word, in order."""
    if not text.isascii():
        words = ((word, _folded(word.group())) for word in _WORD.finditer(text))
        return [(word.start(), word.end(), said) for word, said in words if said in sought]
    # Most texts; to look for a few words takes a tenth of the time of looking at every word.
    small, found = text.lower(), []
    for said in sought:
        if not said.isalnum():  # as the only folded ones: no word of such a text is like it
            continue
        at = small.find(said)
        while at >= 0 and (rest := _WORD.match(small, at)):
            if rest.group() == said and not small[at - 1 : at].isalnum():
                found.append((at, rest.end(), said))
            at = small.find(said, rest.end())
    return sorted(found)


def _folded(word: str) -> str:
    """A word without case and accents."""
    if word.isascii():
        return word.lower()
    return "".join(c for c in normalize("NFKD", word.casefold()) if not combining(c))


def _beside(text: str, end: int, start: int) -> bool:
    """Whether nothing but a few marks and spaces stands between two places."""
    return start - end <= _APART and not _WORD.search(text, end, start)


def _replaced(text: str, value: str) -> str:
    """The text with "[identifier]" wherever the value stands, in any case."""
    small, sought = text.lower(), value.lower()
    if sought not in small:
        return text
    if len(small) != len(text) or len(sought) != len(
        value
    ):  # a letter that has no single small one
        return re.sub(re.escape(value), "[identifier]", text, flags=re.IGNORECASE)
    parts, done = [], 0
    while (at := small.find(sought, done)) >= 0:
        parts += [text[done:at], "[identifier]"]
        done = at + len(sought)
    return "".join([*parts, text[done:]])
