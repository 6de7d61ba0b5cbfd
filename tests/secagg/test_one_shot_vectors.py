"""Recorded one-shot sessions play again, frame by frame on both sides, and what is bad is refused.

The vectors and their format are described in tests/vectors/secagg/one_shot.md. `SecondHand` below
is a second implementation, made of that description and of nothing in codex_ray.secagg: what it
computes has to be what was sent.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from bisect import bisect_right
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from one_shot_replay import OneShotTranscript
from secagg_replay import drawing_from
from test_vectors import hkdf, join, read_bytes, sha

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg.one_shot_messages import Complaint
from codex_ray.types import Stage
from codex_ray.wire import read_frame

VECTORS = Path(__file__).parents[1] / "vectors" / "secagg"
SESSIONS = ("one_shot", "one_shot_wide")
SPEAK, OPEN = Stage.MASKED_INPUT, Stage.UNMASK
PRIME = 2**31 - 1


def load(name: str):
    return json.loads((VECTORS / f"{name}.json").read_text())


def a_transcript(name: str) -> OneShotTranscript:
    return OneShotTranscript(load(name))


every_session = pytest.mark.parametrize("name", SESSIONS)


# The same frames.


@every_session
def test_each_client_answers_as_recorded(name):
    transcript = a_transcript(name)
    for one in transcript.members:
        client = transcript.client(one)
        with drawing_from(transcript.draws_of(str(one))):
            for stage in transcript.stages:
                if one in transcript.replies(stage):
                    request = read_frame(transcript.requests(stage)[one])
                    assert client.answer(request).to_frame() == transcript.replies(stage)[one]


@every_session
def test_the_server_asks_as_recorded_and_has_the_sum(name):
    transcript = a_transcript(name)
    session = transcript.session()
    with drawing_from(transcript.draws_of("server")):
        outbox = next(session)
        for stage in transcript.stages:
            frames = {one: request.to_frame() for one, request in outbox.items()}
            assert frames == transcript.requests(stage)
            inbox = {one: read_frame(it) for one, it in transcript.replies(stage).items()}
            try:
                outbox = session.send(inbox)
            except StopIteration as end:
                result = end.value
    want = transcript.kept["result"]
    assert list(result.members) == want["members"]
    np.testing.assert_array_equal(result.groups[0].total, transcript.words(want["total"]))


@every_session
def test_the_sum_is_that_of_the_summands(name):
    transcript = a_transcript(name)
    members = transcript.kept["result"]["members"]
    total = sum(transcript.summand(one).astype(object) for one in members)
    got = transcript.words(transcript.kept["result"]["total"])
    assert got.tolist() == (total % 2**transcript.context.bits).tolist()


@every_session
def test_every_frame_has_one_encoding(name):
    transcript = a_transcript(name)
    for stage in transcript.stages:
        for frame in (*transcript.requests(stage).values(), *transcript.replies(stage).values()):
            message = read_frame(frame)
            assert message.to_frame() == frame and message.stage == stage


def test_the_sessions_cover_dropouts_packing_a_drawn_committee_and_both_kinds_of_words():
    drawn, wide = (a_transcript(name) for name in SESSIONS)
    assert len(drawn.replies(SPEAK)) < len(drawn.members) and drawn.plan.size < len(drawn.members)
    assert len(drawn.replies(OPEN)) < drawn.plan.size and drawn.plan.packing > 1
    highs = [read_frame(it.replies(SPEAK)[0]).high.size for it in (drawn, wide)]
    assert highs == [0, wide.context.dimension]


# What must be refused.


def bad_id(case) -> str:
    said = case.get("reason") or case.get("outcome") or f"complaint {case.get('complaint')}"
    return f"{case['session']}-{case['stage']}-{said}"


@pytest.mark.parametrize("case", load("one_shot_bad_requests"), ids=bad_id)
def test_a_bad_request_is_refused_or_complained_about(case):
    transcript, one = a_transcript(case["session"]), case["client"]
    stage = Stage[case["stage"].upper()]
    client = transcript.client_at(stage, one)
    bad, honest = bytes.fromhex(case["request"]), transcript.requests(stage)[one]
    assert bad != honest
    if "complaint" in case:
        assert client.answer(read_frame(bad)) == Complaint(tuple(case["complaint"]))
    else:
        with pytest.raises(ProtocolError, match=case["reason"]):
            client.answer(read_frame(bad))
        with pytest.raises(ProtocolError, match="session is at: over"):
            client.answer(read_frame(honest))


@pytest.mark.parametrize("case", load("one_shot_bad_replies"), ids=bad_id)
def test_a_bad_reply_counts_as_silence_or_ends_the_sum(case):
    transcript, stage = a_transcript(case["session"]), Stage[case["stage"].upper()]
    session = transcript.session()
    with drawing_from(transcript.draws_of("server")):
        next(session)
        for past in transcript.stages[: transcript.stages.index(stage)]:
            session.send({one: read_frame(it) for one, it in transcript.replies(past).items()})
        inbox = {one: read_frame(it) for one, it in transcript.replies(stage).items()}
        assert bytes.fromhex(case["reply"]) != transcript.replies(stage)[case["client"]]
        inbox[case["client"]] = read_frame(bytes.fromhex(case["reply"]))
        if case["outcome"] == "dropped":
            asked = session.send(inbox)
            assert all(case["client"] not in it.survivors for it in asked.values())
        else:
            with pytest.raises(SumAborted, match=case["outcome"]):
                session.send(inbox)


# A second implementation.


def keystream(key: bytes, size: int) -> bytes:
    """AES-256-CTR from an all-zero counter."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def ends_of(width_squared: str) -> tuple[list[int], int]:
    """For each value but the last, the 64-bit numbers below which it is drawn; and the largest."""
    with localcontext() as context:
        context.prec = 60
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
        weights = [Decimal(1)]
        while weights[-1] > Decimal(2) ** -68:
            weights.append((-pi * len(weights) ** 2 / Decimal(width_squared)).exp())
        line = weights[:0:-1] + weights
        ends = [
            min(int(sum(line[: at + 1]) / sum(line) * 2**64), 2**64 - 1)
            for at in range(len(line) - 1)
        ]
    return ends, len(weights) - 1


def gaussians(key: bytes, count: int, width_squared: str) -> list[int]:
    """`count` draws, each of 16 bits, and of 48 more where those do not decide."""
    ends, largest = ends_of(width_squared)
    raw = keystream(key, 10 * count)
    drawn, at = [], 2 * count
    for (word,) in struct.iter_unpack("<H", raw[: 2 * count]):
        lowest, highest = (bisect_right(ends, it) for it in (word << 48, (word << 48) + 2**48 - 1))
        if lowest != highest:
            (more,) = struct.unpack_from("<Q", raw, at)
            at += 8
            lowest = bisect_right(ends, (word << 48) + (more >> 16))
        drawn.append(lowest - largest)
    return drawn


def ring_product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Modulo X^2048 + 1 and 2^64, where words 2j and 2j + 1 belong to X^j and X^(j + 1024)."""
    straight = [np.concatenate([it[0::2], it[1::2]]).astype(np.int64) for it in (one, other)]
    long = np.convolve(*straight)
    long = np.append(long, np.zeros(4096 - long.size, dtype=np.int64))
    product = long[:2048] - long[2048:]
    result = np.empty(2048, dtype=np.int64)
    result[0::2], result[1::2] = product[:1024], product[1024:]
    return result


def through(points: dict[int, np.ndarray], wanted: int) -> np.ndarray:
    """The value at `wanted` of the polynomial through these values, modulo the prime."""
    total = 0
    for at, values in points.items():
        weight = 1
        for other in points:
            if other != at:
                weight = weight * (wanted - other) * pow(at - other, -1, PRIME) % PRIME
        total = (total + weight * values) % PRIME
    return total


class SecondHand:
    """What one_shot.md says of a session, from the recorded keys, draws and frames."""

    def __init__(self, name: str) -> None:
        kept = self.kept = load(name)
        plan, context = kept["plan"], kept["context"]
        self.bits, self.dimension = context["bits"], context["dimension"]
        self.size, self.threshold, self.packing = plan["size"], plan["threshold"], plan["packing"]
        self.entries = {int(one): bytes.fromhex(raw) for one, raw in kept["enrolment"].items()}
        self.members = sorted(self.entries)
        listed = b"".join(one.to_bytes(8, "little") + self.entries[one] for one in self.members)
        self.enrolled = hashlib.sha256(b"codex_ray/enrolment/2" + listed).digest()
        self.encoded = join(
            b"codex_ray/secagg/3",
            bytes.fromhex(context["run"]),
            context["round"],
            context["attempt"],
            bytes.fromhex(context["model_digest"]),
            self.dimension,
            self.bits,
        )
        nonce = bytes.fromhex(kept["server"]["draws"][0])
        rules = (plan["adversary"], self.threshold, self.packing, plan["minimum"])
        opened = sha(self.encoded, "one shot", self.enrolled, nonce, *rules)
        ids = b"".join(struct.pack("<I", one) for one in self.members)
        self.session = sha(opened, ids, *self.committee())
        reach = 2 * 9.2 * math.sqrt(40.5 / (2 * math.pi)) * math.sqrt(len(self.members))
        self.noise_bits = math.ceil(math.log2(reach))
        self.width = self.noise_bits + self.bits
        trips = {trip["stage"]: trip for trip in kept["trips"]}
        self.requests, self.replies = (
            {
                stage: {int(one): bytes.fromhex(raw) for one, raw in trip[way].items()}
                for stage, trip in trips.items()
            }
            for way in ("requests", "replies")
        )

    def committee(self) -> list[int]:
        sizes = (self.size, self.threshold, self.packing)
        seed = sha(self.encoded, "committee", self.enrolled, *sizes)
        ids = b"".join(one.to_bytes(8, "little") for one in self.members)
        key = hashlib.sha256(b"committee" + seed + ids).digest()
        words = struct.unpack(f"<{len(self.members)}Q", keystream(key, 8 * len(self.members)))
        ranked = sorted(zip(words, self.members, strict=True))
        return sorted(one for _, one in ranked[: self.size])

    def draws(self, one: int) -> list[bytes]:
        """The seeds of the key, the noise and the shares' polynomials, and the nonce second."""
        return [bytes.fromhex(raw) for raw in self.kept["clients"][str(one)]["draws"]]

    def key(self, one: int) -> np.ndarray:
        return np.array(gaussians(self.draws(one)[0], 2048, "20.25"), dtype=np.int64)

    def times_matrix(self, key: np.ndarray) -> np.ndarray:
        """A s [d] modulo 2^64."""
        rows = -(-self.dimension // 2048)
        raw = keystream(sha(self.encoded, "public matrix", self.width), 8 * 2048 * rows)
        matrix = (np.frombuffer(raw, "<u8") >> np.uint64(64 - self.width)).astype(np.int64)
        products = [ring_product(row, key) for row in matrix.reshape(rows, 2048)]
        return np.concatenate(products)[: self.dimension]

    def summand(self, one: int) -> np.ndarray:
        raw = bytes.fromhex(self.kept["clients"][str(one)]["summand"])
        return np.frombuffer(raw, "<u2" if self.bits == 16 else "<u4").astype(np.int64)

    def upload(self, one: int) -> bytes:
        """The frame up to the sealed shares."""
        noise = np.array(gaussians(self.draws(one)[2], self.dimension, "40.5"), dtype=np.int64)
        masked = self.times_matrix(self.key(one)) + noise + (self.summand(one) << self.noise_bits)
        masked &= (1 << self.width) - 1
        low = masked.astype("<u4").tobytes()
        high = (masked >> 32).astype("u1").tobytes() if self.width > 32 else b""
        assert self.width <= 40
        nonce = self.draws(one)[1]
        return (
            struct.pack("<HHII", 33, 2, 4, self.dimension)
            + low
            + struct.pack("<II", 1, len(high))
            + high
            + struct.pack("<I", len(nonce))
            + nonce
        )

    def shares(self, one: int) -> list[np.ndarray]:
        """Each committee member's, in the committee's order."""
        key = self.key(one).astype(object)
        numbers = (key[:1024] + key[1024:] * 2**15) % PRIME
        columns = -(-1024 // self.packing)
        padded = np.append(numbers, np.zeros(columns * self.packing - 1024, dtype=object))
        points = {-at: padded[at * columns : (at + 1) * columns] for at in range(self.packing)}
        free = self.threshold - self.packing
        raw = keystream(self.draws(one)[3], 4 * free * columns)
        drawn = (np.frombuffer(raw, "<u4") & PRIME).astype(object).reshape(free, columns)
        assert not np.any(drawn == PRIME)
        points |= {number + 1: row for number, row in enumerate(drawn)}
        return [through(points, number) for number in range(1, self.size + 1)]

    def envelope_key(self, sender: int, receiver: int, *, owner: int) -> bytes:
        """As the owner of one of the two private keys computes it."""
        peer = receiver if owner == sender else sender
        private = bytes.fromhex(self.kept["clients"][str(owner)]["agreement"])
        secret = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(self.entries[peer][32:])
        )
        nonce = self.draws(sender)[1]
        return hkdf(secret, join(self.session, "share", sender, receiver, nonce), 32)

    def sealed(self, one: int) -> bytes:
        found = b""
        for receiver, share in zip(self.committee(), self.shares(one), strict=True):
            key = self.envelope_key(one, receiver, owner=one)
            plain = share.astype("<u4").tobytes()
            aad = join(self.session, one, receiver)
            found += AESGCM(key).encrypt(bytes(12), plain, aad)
        return found


@every_session
def test_the_description_gives_the_session_and_its_committee(name):
    second = SecondHand(name)
    assert second.session.hex() == second.kept["session"]
    for frame in second.requests["masked_input"].values():
        count = len(second.members)
        ids = struct.pack(f"<{count}I", *second.members)
        committee = struct.pack(f"<I{second.size}I", second.size, *second.committee())
        sizes = struct.pack("<qq", second.threshold, second.packing)
        nonce = bytes.fromhex(second.kept["server"]["draws"][0])
        assert frame == (
            struct.pack("<HHII", 32, 2, 4, count)
            + ids
            + committee
            + sizes
            + struct.pack("<I", 32)
            + nonce
        )


@every_session
def test_the_description_gives_every_upload(name):
    second = SecondHand(name)
    for one, frame in second.replies["masked_input"].items():
        said, sealed = second.upload(one), second.sealed(one)
        assert frame == said + struct.pack("<I", len(sealed)) + sealed


@every_session
def test_the_description_gives_what_the_committee_is_asked_and_answers(name):
    second = SecondHand(name)
    survivors = second.kept["result"]["members"]
    shares, sealed = ({one: of(one) for one in survivors} for of in (second.shares, second.sealed))
    size = 4 * -(-1024 // second.packing) + 16
    for at, member in enumerate(second.committee()):
        pieces = [sealed[one][at * size : (at + 1) * size] for one in survivors]
        boxes, nonces = b"".join(pieces), b"".join(second.draws(one)[1] for one in survivors)
        assert second.requests["unmask"][member] == (
            struct.pack(f"<HHI{len(survivors)}I", 35, 2, len(survivors), *survivors)
            + struct.pack("<I", len(nonces))
            + nonces
            + struct.pack("<I", len(boxes))
            + boxes
        )
        for one, piece in zip(survivors, pieces, strict=True):
            key = second.envelope_key(one, member, owner=member)
            plain = AESGCM(key).decrypt(bytes(12), piece, join(second.session, one, member))
            assert np.frombuffer(plain, "<u4").tolist() == shares[one][at].tolist()
        if member in second.replies["unmask"]:
            total = (sum(shares[one][at] for one in survivors) % PRIME).astype("<u4")
            said = struct.pack("<HHII", 36, 2, 4, total.size) + total.tobytes()
            assert second.replies["unmask"][member] == said


@every_session
def test_the_description_opens_the_sum(name):
    second = SecondHand(name)
    survivors, points = second.kept["result"]["members"], {}
    for number, member in enumerate(second.committee(), start=1):
        if member in second.replies["unmask"]:
            words = second.replies["unmask"][member][12:]
            points[number] = np.frombuffer(words, "<u4").astype(object)
    numbers = np.concatenate([through(points, -at) for at in range(second.packing)])[:1024]
    signed = np.array([it - PRIME if it > PRIME // 2 else it for it in numbers], dtype=np.int64)
    low = ((signed + 2**14) % 2**15) - 2**14
    keys = np.concatenate([low, (signed - low) >> 15])
    assert keys.tolist() == sum(second.key(one) for one in survivors).tolist()
    masked = np.zeros(second.dimension, dtype=np.int64)
    for one in survivors:
        frame, wide = second.replies["masked_input"][one], second.width > 32
        masked += np.frombuffer(frame, "<u4", second.dimension, 12)
        if wide:
            high = np.frombuffer(frame, "u1", second.dimension, 20 + 4 * second.dimension)
            masked += high.astype(np.int64) << 32
    opened = masked - second.times_matrix(keys) + (1 << (second.noise_bits - 1))
    total = (opened & ((1 << second.width) - 1)) >> second.noise_bits
    kind = "<u2" if second.bits == 16 else "<u4"
    assert total.astype(kind).tobytes().hex() == second.kept["result"]["total"]


def test_a_nonce_comes_once():
    nonces = [SecondHand(name).draws(one)[1] for name in SESSIONS for one in (0, 1)]
    assert len(set(nonces)) == len(nonces)
    assert all(one != other for one, other in pairwise(nonces))
    assert all(read_bytes(struct.pack("<I", 32) + it) == (it, b"") for it in nonces)
