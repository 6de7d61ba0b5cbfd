"""Writes the vectors beside it: whole sessions with all randomness fixed, and what must be refused.

    python tests/vectors/secagg/make.py

README.md says what is in them. They change only when the encoding or a derivation does, and then
the version of the encoding (codex_ray.wire.VERSION) or the label of the keys changes too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "secagg")]

from make_one_shot import one_shot_files  # noqa: E402  # after its folder is on the path
from secagg_replay import Transcript, record  # noqa: E402  # after its folder is on the path

from codex_ray.secagg.messages import AdvertisedKeys  # noqa: E402
from codex_ray.secagg.parameters import Plan  # noqa: E402
from codex_ray.types import SessionContext, Stage  # noqa: E402
from codex_ray.wire import Message, read_frame  # noqa: E402

RUN, MODEL = bytes(range(16)), bytes(range(100, 132))

SESSIONS: dict[str, tuple[str, Plan, SessionContext, dict[int, Stage]]] = {
    "semi_honest": (
        "Four clients, complete graph, no signatures, 32 bits; client 2 drops before its input.",
        Plan(4, 3, 3, 3, "semi_honest"),
        SessionContext(RUN, 0, 0, MODEL, 8, 32),
        {2: Stage.MASKED_INPUT},
    ),
    "semi_malicious": (
        "Five clients, complete graph, 16 bits; client 3 drops before its input.",
        Plan(5, 4, 4, 4, "semi_malicious"),
        SessionContext(RUN, 3, 1, MODEL, 8, 16),
        {3: Stage.MASKED_INPUT},
    ),
    "malicious": (
        "Five clients, complete graph, 20 bits; client 0 drops before its input.",
        Plan(5, 4, 4, 4, "malicious"),
        SessionContext(RUN, 7, 0, MODEL, 8, 20),
        {0: Stage.MASKED_INPUT},
    ),
    "enrolled": (
        "Four clients, complete graph, enrolled keys, 17 bits; client 1 drops before unmasking.",
        Plan(4, 3, 3, 3, "semi_malicious", "enrolled"),
        SessionContext(RUN, 1, 0, MODEL, 8, 17),
        {1: Stage.UNMASK},
    ),
    "sparse": (
        "Six clients with four neighbours each, malicious, 31 bits; client 4 drops before its "
        "input. The sizes are set by hand: so small a graph protects nobody.",
        Plan(6, 4, 3, 4, "malicious"),
        SessionContext(RUN, 2, 0, MODEL, 8, 31),
        {4: Stage.MASKED_INPUT},
    ),
}

ADVERTISE, REVEAL, SHARE = Stage.ADVERTISE_KEYS, Stage.REVEAL_NONCES, Stage.SHARE_KEYS
MASK, CONFIRM, UNMASK = Stage.MASKED_INPUT, Stage.CONFIRM_SURVIVORS, Stage.UNMASK

Change = Callable[[Any], Message]


def flip(raw: bytes, at: int = -1) -> bytes:
    """`raw` with one bit changed."""
    at %= len(raw)
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def leave_out(field: str, *gone: int) -> Change:
    """A change that takes entries out of a map."""
    return lambda it: replace(
        it, **{field: {one: raw for one, raw in getattr(it, field).items() if one not in gone}}
    )


def put(field: str, one: int, value: Callable[[dict[int, bytes]], bytes]) -> Change:
    """A change that sets an entry of a map to something made of the others."""
    return lambda it: replace(it, **{field: getattr(it, field) | {one: value(getattr(it, field))}})


def advert(one: int, **parts: Callable[[bytes], bytes]) -> Change:
    """A change of parts of a neighbour's advertisement."""

    def change(it: Any) -> Message:
        keys = AdvertisedKeys.from_frame(it.adverts[one])
        keys = replace(keys, **{name: make(getattr(keys, name)) for name, make in parts.items()})
        return replace(it, adverts=it.adverts | {one: keys.to_frame()})

    return change


def a_stranger(directory: Any) -> Message:
    """The directory of `sparse` with a neighbour exchanged for a client that is none."""
    frames = Transcript(json.loads((HERE / "sparse.json").read_text())).requests(SHARE)
    stranger = min(set(frames) - set(directory.adverts))
    known: Any = read_frame(frames[stranger])
    rest: Any = leave_out("adverts", max(directory.adverts))(directory)
    return replace(directory, adverts=rest.adverts | {stranger: known.adverts[stranger]})


BAD_REQUESTS: list[tuple[str, int, Stage, Change, str]] = [
    ("semi_malicious", 1, ADVERTISE, lambda it: replace(it, members=2), "hides nobody"),
    ("semi_malicious", 1, ADVERTISE, lambda it: replace(it, threshold=3), "its own settings give"),
    ("semi_malicious", 1, ADVERTISE, lambda it: replace(it, nonce=it.nonce[1:]), "has 31 bytes"),
    ("semi_malicious", 1, SHARE, leave_out("adverts", 1), "does not hold its own keys"),
    ("semi_malicious", 1, SHARE, advert(1, nonce=flip), "does not hold its own keys"),
    ("semi_malicious", 1, SHARE, advert(2, public=flip), "signature of client 2 does not hold"),
    ("semi_malicious", 1, SHARE, advert(2, signature=flip), "signature of client 2 does not hold"),
    ("semi_malicious", 1, SHARE, advert(2, nonce=lambda it: it[1:]), "has the wrong lengths"),
    ("semi_malicious", 1, SHARE, put("adverts", 9, lambda it: it[2]), "5 neighbours, 4 were"),
    ("semi_malicious", 1, SHARE, leave_out("adverts", 2, 3), "3 share holders cannot give 4"),
    ("semi_malicious", 1, SHARE, lambda it: replace(it, roster=b""), "roster's digest has 0 bytes"),
    ("semi_honest", 1, SHARE, put("adverts", 2, lambda it: it[3]), "a public key is listed twice"),
    ("semi_honest", 1, SHARE, advert(2, public=lambda _: bytes(32)), "cannot be used"),
    ("semi_malicious", 1, MASK, put("sealed", 2, lambda it: it[4]), "does not open"),
    ("semi_malicious", 1, MASK, put("sealed", 2, lambda it: flip(it[2])), "does not open"),
    ("semi_malicious", 1, MASK, put("sealed", 9, lambda it: it[2]), "are not its neighbours"),
    ("semi_malicious", 1, MASK, leave_out("sealed", 2, 3), "are too few for 4 shares"),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, dropped=(*it.dropped, 4)),
        "are said to survive and to have dropped",
    ),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, survivors=(0, 2, 4), dropped=(1, 3)),
        "not among the survivors",
    ),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, survivors=(0, 1, 2), dropped=(3, 4)),
        "3 survivors around it, 4 are needed",
    ),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, survivors=(*it.survivors, 9)),
        "never got shares of",
    ),
    ("malicious", 1, REVEAL, leave_out("committed", 4), "4 clients are listed, 5 were announced"),
    ("malicious", 1, REVEAL, put("committed", 1, lambda it: it[2]), "own commitment is not listed"),
    ("malicious", 1, SHARE, put("nonces", 2, lambda it: it[3]), "not the one it committed to"),
    ("malicious", 1, SHARE, leave_out("nonces", 2), "client 2 did not reveal its nonce"),
    ("sparse", 0, SHARE, a_stranger, "are not its neighbours in the graph"),
    (
        "malicious",
        1,
        CONFIRM,
        lambda it: replace(it, survivors=it.survivors[:3]),
        "3 survivors, 4 are needed",
    ),
    (
        "malicious",
        1,
        CONFIRM,
        lambda it: replace(it, survivors=it.survivors[::-1]),
        "not listed once each",
    ),
    (
        "semi_malicious",
        1,
        CONFIRM,
        lambda it: replace(it, survivors=(*it.survivors, 9)),
        "never could take part",
    ),
    ("semi_malicious", 1, CONFIRM, lambda it: replace(it, survivors=(0, 2, 3, 4)), "not among the"),
    ("malicious", 1, UNMASK, leave_out("signatures", 2), "2 neighbours signed the survivors"),
    ("malicious", 1, UNMASK, put("signatures", 2, lambda it: it[3]), "of client 2 does not hold"),
    ("malicious", 1, UNMASK, lambda it: replace(it, dropped=()), "are not those that it signed"),
]

BAD_REPLIES: list[tuple[str, int, Stage, Change, str]] = [
    ("semi_malicious", 1, ADVERTISE, lambda it: replace(it, nonce=it.nonce[1:]), "dropped"),
    ("semi_malicious", 1, ADVERTISE, lambda it: replace(it, signature=b""), "dropped"),
    ("malicious", 1, REVEAL, lambda it: replace(it, nonce=flip(it.nonce)), "dropped"),
    ("semi_malicious", 1, SHARE, leave_out("sealed", 4), "dropped"),
    ("semi_malicious", 1, SHARE, lambda it: replace(it, commitments=it.commitments[1:]), "dropped"),
    (
        "semi_malicious",
        1,
        MASK,
        lambda it: replace(it, words=it.words[1:]),
        "masked_input: 3 clients can go on, 4 are needed",
    ),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, shares={one: flip(raw, 0) for one, raw in it.shares.items()}),
        "do not fit together",
    ),
    (
        "semi_malicious",
        1,
        UNMASK,
        lambda it: replace(it, shares={}),
        "3 shares of client 3 came of 4 needed",
    ),
]


def bad_frames() -> list[dict[str, str]]:
    """Bytes that are no message, whoever sends them."""
    delivery = "14000200" + "02000000" + "0100000001000000aa" + "0200000001000000bb"
    swapped = "14000200" + "02000000" + "0200000001000000bb" + "0100000001000000aa"
    twice = "14000200" + "02000000" + "0100000001000000aa" + "0100000001000000bb"
    masked = "15000200" + "02000000" + "01000000" + "ffff"
    cases = {
        "": "it has no head",
        "1400": "it has no head",
        delivery[:-2]: "frame is cut",
        delivery + "00": "bytes too many",
        swapped: "keys must increase",
        twice: "keys must increase",
        "1400" + "0100" + delivery[8:]: "frame of version 1",
        "ffff" + delivery[4:]: "unknown kind",
        masked[:8] + "03000000" + masked[16:]: "frame has words of 3 bytes",
        masked[:-2]: "frame is cut",
        masked[:16] + "ffffffff" + masked[24:]: "frame is cut",
    }
    for good in (delivery, masked):
        read_frame(bytes.fromhex(good))
    return [{"frame": frame, "reason": reason} for frame, reason in cases.items()]


def changed(frame: bytes, change: Change) -> str:
    """The frame of the changed message."""
    return change(read_frame(frame)).to_frame().hex()


def write(name: str, content: Any) -> None:
    """Writes one file, the same bytes each time."""
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Writes every file."""
    transcripts = {}
    for name, (about, plan, context, drops) in SESSIONS.items():
        kept = {"about": about} | record(name, plan, context, drops=drops)
        transcripts[name] = Transcript(kept)
        write(name, kept)

    write(
        "bad_requests",
        [
            {
                "session": name,
                "client": one,
                "stage": stage.name.lower(),
                "request": changed(transcripts[name].requests(stage)[one], change),
                "reason": reason,
            }
            for name, one, stage, change, reason in BAD_REQUESTS
        ],
    )
    write(
        "bad_replies",
        [
            {
                "session": name,
                "client": one,
                "stage": stage.name.lower(),
                "reply": changed(transcripts[name].replies(stage)[one], change),
                "outcome": outcome,
            }
            for name, one, stage, change, outcome in BAD_REPLIES
        ],
    )
    write("bad_frames", bad_frames())
    for name, content in one_shot_files().items():
        write(name, content)


if __name__ == "__main__":
    main()
