"""Names with wildcards, as policies write them: `*` is any characters, and all else is itself.

The time is linear in pattern times text; a regular expression could be made to take far more.
"""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` is `text`, where each `*` stands for any characters, or none."""
    at = start = 0
    star, resumed = -1, 0
    while at < len(text):
        if start < len(pattern) and pattern[start] == "*":
            star, resumed = start, at
            start += 1
        elif start < len(pattern) and pattern[start] == text[at]:
            start, at = start + 1, at + 1
        elif star >= 0:
            resumed += 1
            start, at = star + 1, resumed
        else:
            return False
    return all(rest == "*" for rest in pattern[start:])
