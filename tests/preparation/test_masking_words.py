"""Words of an identifier are found in a text as if every word of the text were looked at."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.preparation.masking import _WORD, _folded, _found

WORDS = ("Anna", "anna", "Ann", "a", "x", "xx", "MAY", "007", "7", "Annax", "xAnna", "_a")
ACCENTED = ("Müller", "Muller", "mu\u0308ller", "\u2160\u2164", "iv", "\u2488", "1.")
BETWEEN = (" ", ", ", " - ", "-", ".", "_", "")


def word_by_word(text: str, sought: set[str]) -> list[tuple[int, int, str]]:
    words = [(word.start(), word.end(), _folded(word.group())) for word in _WORD.finditer(text)]
    return [found for found in words if found[2] in sought]


@pytest.mark.parametrize("texts", [WORDS, WORDS + ACCENTED], ids=["ascii", "accents"])
def test_sought_words_are_those_found_word_by_word(texts: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)

    def said(words: tuple[str, ...], most: int) -> str:
        count = rng.integers(1, most)
        return "".join(
            f"{words[rng.integers(len(words))]}{BETWEEN[rng.integers(len(BETWEEN))]}"
            for _ in range(count)
        )

    hits = 0
    for _ in range(5000):
        text = said(texts, 9)
        sought = {_folded(word) for word in _WORD.findall(said(WORDS + ACCENTED, 4))}
        found = _found(text, sought)
        assert found == word_by_word(text, sought), (text, sought)
        hits += len(found)
    assert hits > 1000
