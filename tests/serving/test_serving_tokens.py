"""Tokens: every known way to make a server believe a wrong one is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from typing import Any

import pytest
from asking import NOW, House
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from codex_ray.records.keys import SigningKey
from codex_ray.serving.limits import Limits
from codex_ray.serving.tokens import BadToken, Terms, TokenReader, issue_token

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
READER = TokenReader([KEY.public], audience="heart")
TERMS = Terms("carol", "heart", ("user",), ("model:Predict",), 600.0, 50)
KID = KEY.public.fingerprint
HEADER = {"alg": "EdDSA", "kid": KID, "typ": "JWT"}
CLAIMS: dict[str, Any] = {
    "iss": KID,
    "aud": "heart",
    "sub": "carol",
    "roles": ["user"],
    "scope": "model:Predict",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 600,
    "jti": "0",
}


def packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def signed(header: Any, claims: Any, key: SigningKey = KEY) -> str:
    """A token with whatever in it; text stands for itself."""
    parts = [it if isinstance(it, str) else json.dumps(it) for it in (header, claims)]
    message = ".".join(packed(part.encode()) for part in parts)
    return f"{message}.{packed(key.sign(message.encode()))}"


def test_a_token_says_who_its_holder_is() -> None:
    caller = READER.holder(issue_token(KEY, TERMS, now=NOW), NOW)
    assert (caller.id, caller.roles, caller.budget) == (f"token:{KID[7:15]}:carol", ("user",), 50)
    assert caller.in_scope("model:Predict") and not caller.in_scope("model:GetCard")


def test_the_signature_is_that_of_rfc_8037() -> None:
    """The example of its appendix A.4 (key of A.1), which our own signer must reproduce."""
    d = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(d))
    message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    assert packed(key.sign(message.encode())) == (
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def test_the_hand_made_token_of_these_tests_is_believed() -> None:
    assert READER.holder(signed(HEADER, CLAIMS), NOW).id == f"token:{KID[7:15]}:carol"


def none_token(alg: str) -> str:
    return f"{packed(json.dumps({**HEADER, 'alg': alg}).encode())}." + (
        f"{packed(json.dumps(CLAIMS).encode())}."
    )


def hmac_token() -> str:
    """Signed by HMAC under the public key, which everybody has."""
    header = packed(json.dumps({**HEADER, "alg": "HS256"}).encode())
    message = f"{header}.{packed(json.dumps(CLAIMS).encode())}"
    mac = hmac.new(KEY.public.raw, message.encode(), hashlib.sha256).digest()
    return f"{message}.{packed(mac)}"


YEAR = 31557600.0
LATE = NOW + 10 * YEAR + 3600
GOOD = signed(HEADER, CLAIMS)
TWICE = json.dumps(CLAIMS)[:-1] + ', "scope": "model:*"}'
REFUSED = {
    "none": none_token("none"),
    "NONE": none_token("NonE"),
    "EdDSA without a signature": none_token("EdDSA"),
    "HMAC under the public key": hmac_token(),
    "HS256, rightly signed": signed({**HEADER, "alg": "HS256"}, CLAIMS),
    "an embedded key": signed({**HEADER, "jwk": {"kty": "OKP"}}, CLAIMS),
    "a key to fetch": signed({**HEADER, "jku": "https://example.org/keys"}, CLAIMS),
    "a critical extension": signed({**HEADER, "crit": ["exp"]}, CLAIMS),
    "another issuer": signed(HEADER, CLAIMS, OTHER),
    "an unknown issuer": signed({**HEADER, "kid": OTHER.public.fingerprint}, CLAIMS, OTHER),
    "a kid that is no text": signed({**HEADER, "kid": ["x"]}, CLAIMS),
    "a path for a kid": signed({**HEADER, "kid": "../../dev/null"}, CLAIMS),
    "another issuer's name": signed(HEADER, {**CLAIMS, "iss": OTHER.public.fingerprint}),
    "another audience": signed(HEADER, {**CLAIMS, "aud": "lungs"}),
    "several audiences": signed(HEADER, {**CLAIMS, "aud": ["heart", "lungs"]}),
    "no audience": signed(HEADER, {k: v for k, v in CLAIMS.items() if k != "aud"}),
    "expired": signed(HEADER, {**CLAIMS, "iat": NOW - 999, "nbf": NOW - 999, "exp": NOW - 31}),
    "not yet": signed(HEADER, {**CLAIMS, "nbf": NOW + 31}),
    "for ever": signed(HEADER, {**CLAIMS, "exp": NOW + 86401}),
    "for ten years, from then on": signed(HEADER, {**CLAIMS, "iat": NOW + 10 * YEAR, "exp": LATE}),
    "made later": signed(HEADER, {**CLAIMS, "iat": NOW + 31}),
    "begun ten years ago": signed(HEADER, {**CLAIMS, "nbf": NOW - 10 * YEAR}),
    "until text": signed(HEADER, {**CLAIMS, "exp": "9999999999"}),
    "until infinity": signed(HEADER, json.dumps(CLAIMS).replace(str(NOW + 600), "Infinity")),
    "until true": signed(HEADER, {**CLAIMS, "exp": True}),
    "no end": signed(HEADER, {k: v for k, v in CLAIMS.items() if k != "exp"}),
    "a key twice": signed(HEADER, TWICE),
    "an unknown claim": signed(HEADER, {**CLAIMS, "admin": True}),
    "a scope that is a list": signed(HEADER, {**CLAIMS, "scope": ["model:*"]}),
    "roles that are a text": signed(HEADER, {**CLAIMS, "roles": "admin"}),
    "a budget below 0": signed(HEADER, {**CLAIMS, "budget": -1}),
    "a budget that is true": signed(HEADER, {**CLAIMS, "budget": True}),
    "a subject with a line break": signed(HEADER, {**CLAIMS, "sub": "a\nb"}),
    "a list": signed(HEADER, [CLAIMS]),
    "no JSON": signed(HEADER, "{"),
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".x",
    "padding": GOOD + "=",
    "nothing": "..",
    "too long": GOOD + "A" * 2048,
    "deep": signed(HEADER, "[" * 900),
}


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
def test_refused(token: str) -> None:
    with pytest.raises(BadToken):
        READER.holder(token, NOW)


def test_no_character_can_be_changed() -> None:
    for place, character in enumerate(GOOD):
        for other in ("A", "B", ".", "_"):
            if other != character:
                with pytest.raises(BadToken):
                    READER.holder(GOOD[:place] + other + GOOD[place + 1 :], NOW)


def test_a_signature_has_one_spelling() -> None:
    """Its last character carries four bits beyond the 64 bytes, which most readers pass over."""

    def raw(token: str) -> bytes:
        return base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")

    last = f"{string.ascii_letters}{string.digits}-_"
    spellings = [GOOD[:-1] + it for it in last if raw(GOOD[:-1] + it) == raw(GOOD)]
    assert len(spellings) == 16
    for token in set(spellings) - {GOOD}:
        with pytest.raises(BadToken):
            READER.holder(token, NOW)


def test_every_wrong_token_gets_the_same_answer(house: House, tmp_path: Any) -> None:
    house.changes = {
        "issuers": (KEY.public,),
        "limits": Limits(lockout_failures=10_000),
    }
    house.app = house.fresh()
    good = issue_token(KEY, TERMS, now=NOW)
    assert house.predict(key=good).status == 200
    assert house.get("/v1/card", key=good).code == "out_of_scope"
    wrong = [*REFUSED.values(), "nonsense"]
    said = house.ask(*[house.request("POST", "/v1/predict", key=token) for token in wrong])
    assert {(it.status, it.body, str(sorted(it.headers.items()))) for it in said} == {
        (401, b'{"error":"unauthorized"}', str(sorted(said[0].headers.items())))
    }


def test_tokens_are_nothing_to_a_server_without_issuers(house: House) -> None:
    assert house.predict(key=issue_token(KEY, TERMS, now=NOW)).status == 401
