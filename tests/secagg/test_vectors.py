"""Recorded sessions play again, frame by frame on both sides, and what must be refused is.

The vectors and their format are described in tests/vectors/secagg/README.md. `SecondHand` below is
a second implementation of a client's masked input, made of that description and of nothing in
codex_ray.secagg: what it computes has to be what was sent.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from secagg_modes import dies_of, residue_sum, stages_of
from secagg_replay import Transcript, drawing_from

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg.messages import AdvertisedKeys
from codex_ray.types import Stage
from codex_ray.wire import read_frame

VECTORS = Path(__file__).parents[1] / "vectors" / "secagg"
SESSIONS = ("semi_honest", "semi_malicious", "malicious", "enrolled", "sparse")


def load(name: str):
    return json.loads((VECTORS / f"{name}.json").read_text())


def a_transcript(name: str) -> Transcript:
    return Transcript(load(name))


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
    (group,) = result.groups
    want = transcript.kept["result"]
    assert list(result.members) == want["members"]
    assert group.total.tolist() == want["total"]
    assert result.masks_recovered == want["masks_recovered"]


@every_session
def test_the_sum_is_that_of_the_summands(name):
    transcript = a_transcript(name)
    members = tuple(transcript.kept["result"]["members"])
    parts = {one: transcript.summand(one) for one in members}
    total = residue_sum(parts, members, transcript.context)
    assert transcript.kept["result"]["total"] == total.tolist()


@every_session
def test_every_frame_has_one_encoding(name):
    transcript = a_transcript(name)
    for stage in transcript.stages:
        for frame in (*transcript.requests(stage).values(), *transcript.replies(stage).values()):
            message = read_frame(frame)
            assert message.to_frame() == frame and message.stage == stage


def test_the_sessions_cover_every_adversary_both_kinds_of_keys_and_every_trip():
    plans = [a_transcript(name).plan for name in SESSIONS]
    assert {it.adversary for it in plans} == {"semi_honest", "semi_malicious", "malicious"}
    assert {it.keys for it in plans} == {"session", "enrolled"}
    assert {it.complete for it in plans} == {True, False}
    for name, plan in zip(SESSIONS, plans, strict=True):
        assert a_transcript(name).stages == stages_of(plan.adversary)


def test_the_vectors_are_what_their_script_writes(tmp_path, monkeypatch):
    script = runpy.run_path(str(VECTORS / "make.py"))
    written = {}
    monkeypatch.setitem(script["main"].__globals__, "write", written.__setitem__)
    script["main"]()
    assert written.keys() == {path.stem for path in VECTORS.glob("*.json")}
    assert all(load(name) == content for name, content in written.items())


# What must be refused.


def bad_id(case) -> str:
    return f"{case['session']}-{case['stage']}-{case.get('reason', case.get('outcome'))}"


@pytest.mark.parametrize("case", load("bad_requests"), ids=bad_id)
def test_a_bad_request_is_refused_and_ends_the_session(case):
    transcript, one, stage = (
        a_transcript(case["session"]),
        case["client"],
        Stage[case["stage"].upper()],
    )
    client = transcript.client_at(stage, one)
    bad, honest = bytes.fromhex(case["request"]), transcript.requests(stage)[one]
    assert bad != honest
    dies_of(client, read_frame(bad), case["reason"], read_frame(honest))


@pytest.mark.parametrize("case", load("bad_replies"), ids=bad_id)
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
            later = transcript.requests(transcript.stages[transcript.stages.index(stage) + 1])
            assert set(session.send(inbox)) == set(later) - {case["client"]}
        else:
            with pytest.raises(SumAborted, match=case["outcome"]):
                session.send(inbox)


@pytest.mark.parametrize("case", load("bad_frames"), ids=lambda it: it["reason"])
def test_a_bad_frame_is_refused(case):
    with pytest.raises(ProtocolError, match=case["reason"]):
        read_frame(bytes.fromhex(case["frame"]))


# A second implementation.


def join(*parts) -> bytes:
    raws = [
        part.to_bytes(8, "little", signed=True)
        if isinstance(part, int)
        else part.encode()
        if isinstance(part, str)
        else part
        for part in parts
    ]
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)


def sha(*parts) -> bytes:
    return hashlib.sha256(join(*parts)).digest()


def hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(hashes.SHA256(), size, salt=None, info=info).derive(secret)


def read_map(raw: bytes) -> tuple[dict[int, bytes], bytes]:
    """The map that `raw` begins with, and what follows."""
    (count,), at, found = struct.unpack_from("<I", raw), 4, {}
    for _ in range(count):
        key, size = struct.unpack_from("<II", raw, at)
        found[key] = raw[at + 8 : at + 8 + size]
        at += 8 + size
    return found, raw[at:]


def read_bytes(raw: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + size], raw[4 + size :]


class SecondHand:
    """What README.md says of a session, computed from the recorded keys, draws and frames."""

    def __init__(self, name: str) -> None:
        kept = self.kept = load(name)
        plan, context = kept["plan"], kept["context"]
        self.enrolled, self.careful = plan["keys"] == "enrolled", plan["adversary"] == "malicious"
        entries = {int(one): bytes.fromhex(raw) for one, raw in kept["enrolment"].items()}
        self.entries, digest = entries, b""
        if self.enrolled or plan["adversary"] != "semi_honest":
            listed = b"".join(one.to_bytes(8, "little") + entries[one] for one in sorted(entries))
            digest = hashlib.sha256(b"codex_ray/enrolment/2" + listed).digest()
        encoded = join(
            b"codex_ray/secagg/3",
            bytes.fromhex(context["run"]),
            context["round"],
            context["attempt"],
            bytes.fromhex(context["model_digest"]),
            context["dimension"],
            context["bits"],
        )
        nonce = bytes.fromhex(kept["server"]["draws"][0])
        sizes = (plan["members"], plan["degree"], plan["threshold"])
        self.bound = sha(encoded, plan["adversary"], plan["keys"], *sizes, nonce, digest)
        trips = {trip["stage"]: trip for trip in kept["trips"]}
        self.requests, self.replies = (
            {
                stage: {int(one): bytes.fromhex(raw) for one, raw in trip[way].items()}
                for stage, trip in trips.items()
            }
            for way in ("requests", "replies")
        )
        self.adverts = self.replies["advertise_keys"]
        self.session = sha("session", self.bound, self.roster())

    def roster(self) -> bytes:
        if not self.careful:
            return hashlib.sha256(
                b"".join(join(one, self.adverts[one]) for one in sorted(self.adverts))
            ).digest()
        listed = {one: self.parts(one)[1] for one in self.adverts}
        nonces = {one: raw[8:] for one, raw in self.replies["reveal_nonces"].items()}
        return hashlib.sha256(
            b"".join(join(one, listed[one], nonces.get(one, b"")) for one in sorted(listed))
        ).digest()

    def parts(self, one: int) -> tuple[bytes, bytes, bytes]:
        """Public key, nonce or commitment, and signature."""
        public, rest = read_bytes(self.adverts[one][4:])
        nonce, rest = read_bytes(rest)
        signature, rest = read_bytes(rest)
        assert rest == b""
        return public, nonce, signature

    def draws(self, one: int) -> list[bytes]:
        """Agreement key, nonce, self-mask seed, escrow key, and what the shares are made of."""
        raw = self.kept["clients"][str(one)]
        drawn = [bytes.fromhex(draw) for draw in raw["draws"]]
        return [bytes.fromhex(raw["agreement"]), *drawn] if self.enrolled else drawn

    def pair(self, me: int, peer: int) -> tuple[bytes, bytes, bytes]:
        """The pair seed, and the keys from `me` and to `me`."""
        theirs = self.entries[peer][32:] if self.enrolled else self.parts(peer)[0]
        own = X25519PrivateKey.from_private_bytes(self.draws(me)[0])
        low, high = min(me, peer), max(me, peer)
        info = join(self.session, "pair", low, self.adverts[low], high, self.adverts[high])
        keys = hkdf(own.exchange(X25519PublicKey.from_public_bytes(theirs)), info, 96)
        mask, up, down = keys[:32], keys[32:64], keys[64:]
        return (mask, up, down) if me == low else (mask, down, up)

    def mask(self, key: bytes) -> np.ndarray:
        """The words of a key's mask, as Python integers."""
        size = 2 if self.kept["context"]["bits"] == 16 else 4
        counter = bytes(12) + bytes([0, 0, 0, 2])
        stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
        raw = stream.update(bytes(size * self.kept["context"]["dimension"]))
        return np.frombuffer(raw, f"<u{size}").astype(object)

    def masked_input(self, me: int) -> bytes:
        """The frame of the masked input."""
        senders, rest = read_map(self.requests["masked_input"][me][4:])
        assert rest == b""
        words = np.array(self.kept["clients"][str(me)]["summand"], dtype=object)
        words = words + self.mask(hkdf(self.draws(me)[2], join(self.session, "self mask", me), 32))
        for peer in senders:
            mask = self.mask(self.pair(me, peer)[0])
            words = words + (mask if me < peer else -mask)
        size = 2 if self.kept["context"]["bits"] == 16 else 4
        residues = (words % 2 ** self.kept["context"]["bits"]).astype(f"<u{size}")
        return struct.pack("<HHII", 21, 2, size, residues.size) + residues.tobytes()


@every_session
def test_the_description_gives_the_session_and_what_was_sent(name):
    second = SecondHand(name)
    assert second.session.hex() == second.kept["session"]
    for one, frame in second.replies["masked_input"].items():
        assert second.masked_input(one) == frame


@every_session
def test_the_description_opens_every_envelope(name):
    """And the shares in it lie on polynomials whose constant terms are the two secrets."""
    second, prime = SecondHand(name), 2**31 - 1
    sealed = {one: read_map(frame[4:])[0] for one, frame in second.replies["share_keys"].items()}
    for one, envelopes in sealed.items():
        complete = second.kept["plan"]["degree"] == second.kept["plan"]["members"] - 1
        order = sorted({*envelopes, one} if complete else envelopes)
        drawn = np.frombuffer(second.draws(one)[4], "<u4") & prime
        rows = drawn.reshape(second.kept["plan"]["threshold"] - 1, 18).astype(object)
        limbs = []
        for secret in second.draws(one)[2:4]:
            whole = int.from_bytes(secret, "little")
            limbs += [(whole >> (30 * at)) % 2**30 for at in range(9)]
        for peer, envelope in envelopes.items():
            key, point = second.pair(one, peer)[1], order.index(peer) + 1
            assert key == second.pair(peer, one)[2]
            plain = AESGCM(key).decrypt(bytes(12), envelope, join(second.session, one, peer))
            values = np.array(limbs, dtype=object)
            for power, row in enumerate(rows, start=1):
                values = (values + row * pow(point, power, prime)) % prime
            assert np.frombuffer(plain, "<u4").tolist() == values.tolist()


@every_session
def test_the_description_opens_every_escrow_and_checks_every_commitment(name):
    second = SecondHand(name)
    for one, frame in second.replies["share_keys"].items():
        envelopes, rest = read_map(frame[4:])
        escrow, rest = read_bytes(rest)
        commitments, rest = read_bytes(rest)
        assert rest == b""
        seed, key = second.draws(one)[2:4]
        seeds = AESGCM(key).decrypt(bytes(12), escrow, join(second.session, one, one))
        assert seeds == b"".join(second.pair(one, peer)[0] for peer in sorted(envelopes))
        assert commitments == sha(second.session, "commitment", "seed", one, seed) + sha(
            second.session, "commitment", "escrow", one, key
        )


@every_session
def test_the_description_checks_every_signature(name):
    second = SecondHand(name)
    for one in second.adverts:
        public, nonce, signature = second.parts(one)
        if second.kept["plan"]["adversary"] == "semi_honest":
            assert signature == b""
            continue
        verifier = Ed25519PublicKey.from_public_bytes(second.entries[one][:32])
        verifier.verify(signature, join("advertise", second.bound, one, public, nonce))
        if second.careful:
            assert nonce == sha("nonce", second.bound, one, second.draws(one)[1])
        if one in second.replies["confirm_survivors"]:
            survivors = second.kept["result"]["members"]
            listed = hashlib.sha256(struct.pack(f"<{len(survivors)}I", *survivors)).digest()
            confirmed = read_bytes(second.replies["confirm_survivors"][one][4:])[0]
            verifier.verify(confirmed, join(second.session, "survivors", listed))


def test_the_description_draws_the_sparse_graph():
    second, members = SecondHand("sparse"), range(6)
    listed = b"".join(one.to_bytes(8, "little") for one in members)
    key = hashlib.sha256(b"graph" + second.session + listed).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 6))
    circle = sorted(members, key=lambda one: struct.unpack_from("<Q", stream, 8 * one))
    for one, frame in second.requests["share_keys"].items():
        at = circle.index(one)
        near = {circle[(at + step) % 6] for step in (-2, -1, 1, 2)}
        assert set(read_map(frame[4:])[0]) == near | {one}


def test_the_second_implementation_reads_advertisements_as_the_first():
    second = SecondHand("semi_malicious")
    for one, frame in second.adverts.items():
        keys = AdvertisedKeys.from_frame(frame)
        assert second.parts(one) == (keys.public, keys.nonce, keys.signature)
