"""The vectors of the one-shot sum: whole sessions with all randomness fixed, and what is refused.

`make.py` writes them; one_shot.md says what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from one_shot_replay import OneShotTranscript, record_one_shot

from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.one_shot_messages import Complaint, ShareSum
from codex_ray.secagg.shamir import PRIME
from codex_ray.types import SessionContext, Stage
from codex_ray.wire import Message, read_frame

RUN, MODEL = bytes(range(16)), bytes(range(100, 132))
SPEAK, OPEN = Stage.MASKED_INPUT, Stage.UNMASK

SESSIONS: dict[str, tuple[str, CommitteePlan, SessionContext, dict[int, Stage]]] = {
    "one_shot": (
        "Five clients, 16 bits; client 2 drops before it speaks, and committee member 4 before it "
        "opens. The sizes are set by hand: so small a committee protects nobody.",
        CommitteePlan(5, size=4, corrupt=1, packing=2, threshold=3, minimum=3),
        SessionContext(RUN, 2, 0, MODEL, 40, 16),
        {2: SPEAK, 4: OPEN},
    ),
    "one_shot_wide": (
        "Three clients who are their own committee, 32 bits, two polynomials; nobody drops.",
        CommitteePlan(3, size=3, corrupt=1, packing=2, threshold=3, minimum=3),
        SessionContext(RUN, 9, 2, MODEL, 2050, 32),
        {},
    ),
}

Change = Callable[[Any], Message]


def flip(raw: bytes, at: int = -1) -> bytes:
    """`raw` with one bit changed."""
    at %= len(raw)
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def without_one(asking: Any) -> Message:
    """The first survivor left out, with what it sent."""
    size = len(asking.sealed) // len(asking.survivors)
    return replace(
        asking,
        survivors=asking.survivors[1:],
        nonces=asking.nonces[32:],
        sealed=asking.sealed[size:],
    )


def without_two(asking: Any) -> Message:
    """So few survivors that two are left."""
    return without_one(without_one(asking))


BAD_REQUESTS: list[tuple[str, int, Stage, Change, str]] = [
    ("one_shot", 1, SPEAK, lambda it: replace(it, nonce=it.nonce[1:]), "has 31 bytes"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, threshold=2), "its own settings give"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, packing=1), "its own settings give"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, committee=it.committee[1:]), "was announced"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, members=it.members[::-1]), "not listed once"),
    (
        "one_shot",
        1,
        SPEAK,
        lambda it: replace(it, members=np.array([0, 1, 1, 2, 4], "<u4")),
        "not listed once",
    ),
    (
        "one_shot",
        1,
        SPEAK,
        lambda it: replace(it, members=np.array([0, 1, 2, 3, 9], "<u4")),
        r"\[9\] are not enrolled",
    ),
    (
        "one_shot",
        1,
        SPEAK,
        lambda it: replace(it, members=np.array([0, 2, 3, 4, 9], "<u4")),
        "it is not among the members",
    ),
    (
        "one_shot",
        1,
        SPEAK,
        lambda it: replace(it, committee=(0, 1, 2, 4)),
        "not the one that its own shuffle draws",
    ),
    ("one_shot", 3, OPEN, without_two, "2 survivors, 3 are needed"),
    (
        "one_shot",
        3,
        OPEN,
        lambda it: replace(it, survivors=(0, 1, 1, 4)),
        "survivors are not listed once each",
    ),
    (
        "one_shot",
        3,
        OPEN,
        lambda it: replace(it, survivors=(0, 1, 4, 9)),
        "survivors that were not invited",
    ),
    ("one_shot", 3, OPEN, lambda it: replace(it, sealed=it.sealed[1:]), "not a nonce and a share"),
]

COMPLAINTS: list[tuple[str, int, Change, tuple[int, ...]]] = [
    ("one_shot", 3, lambda it: replace(it, sealed=flip(it.sealed)), (4,)),
    ("one_shot", 3, lambda it: replace(it, nonces=it.nonces[32:] + it.nonces[:32]), (0, 1, 3, 4)),
]
"""Requests that a committee member answers by naming clients, and whom it names."""

BAD_REPLIES: list[tuple[str, int, Stage, Change, str]] = [
    ("one_shot", 1, SPEAK, lambda it: replace(it, low=it.low[1:]), "dropped"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, high=np.zeros(40, np.uint8)), "dropped"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, nonce=it.nonce[1:]), "dropped"),
    ("one_shot", 1, SPEAK, lambda it: replace(it, sealed=it.sealed[1:]), "dropped"),
    (
        "one_shot",
        3,
        OPEN,
        lambda it: replace(it, share=it.share[1:]),
        r"2 of a committee of 4 gave a sum, 3 are needed: leave out committee members \[3\]",
    ),
    (
        "one_shot",
        3,
        OPEN,
        lambda it: replace(it, share=np.full_like(it.share, PRIME)),
        r"leave out committee members \[3\]",
    ),
    ("one_shot", 3, OPEN, lambda it: Complaint((9,)), r"leave out committee members \[3\]"),
    ("one_shot", 3, OPEN, lambda it: Complaint((1,)), r"clients \[1\] .* or committee members"),
    (
        "one_shot",
        3,
        OPEN,
        lambda it: ShareSum(it.share ^ np.uint32(1)),
        "the sum does not decode: .* nobody can tell whose",
    ),
    (
        "one_shot_wide",
        1,
        SPEAK,
        lambda it: replace(it, high=it.high.astype(np.uint16)),
        "masked_input: 2 clients can go on, 3 are needed",
    ),
]


def one_shot_files() -> dict[str, Any]:
    """What is in each file, by its name."""
    files: dict[str, Any] = {
        name: {"about": about} | record_one_shot(name, plan, context, drops=drops)
        for name, (about, plan, context, drops) in SESSIONS.items()
    }
    played = {name: OneShotTranscript(kept) for name, kept in files.items()}

    def request(name: str, one: int, stage: Stage, change: Change) -> str:
        return change(read_frame(played[name].requests(stage)[one])).to_frame().hex()

    def reply(name: str, one: int, stage: Stage, change: Change) -> str:
        return change(read_frame(played[name].replies(stage)[one])).to_frame().hex()

    return files | {
        "one_shot_bad_requests": [
            {
                "session": name,
                "client": one,
                "stage": stage.name.lower(),
                "request": request(name, one, stage, change),
                "reason": reason,
            }
            for name, one, stage, change, reason in BAD_REQUESTS
        ]
        + [
            {
                "session": name,
                "client": one,
                "stage": OPEN.name.lower(),
                "request": request(name, one, OPEN, change),
                "complaint": list(named),
            }
            for name, one, change, named in COMPLAINTS
        ],
        "one_shot_bad_replies": [
            {
                "session": name,
                "client": one,
                "stage": stage.name.lower(),
                "reply": reply(name, one, stage, change),
                "outcome": outcome,
            }
            for name, one, stage, change, outcome in BAD_REPLIES
        ],
    }
