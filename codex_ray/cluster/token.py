"""The token that a Ray cluster demands of everyone: made for its owner alone, never printed.

It is one secret for everything: whoever has it runs any code on the cluster.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codex_ray.errors import InputError
from codex_ray.records.private_files import create_file, read_private

SHORTEST: Final = 32
"""Characters under which a token could be found by trying."""


@dataclass(frozen=True)
class Token:
    """A token, and where it was found.

    Attributes:
        where: the file, or the variable of the environment.
        secret: the token itself.
    """

    where: str
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """A short name of it, to compare two nodes by; it gives nothing of 256 random bits away."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:16]


def default_file(environment: Mapping[str, str]) -> Path:
    """Where Ray looks: $RAY_AUTH_TOKEN_PATH, or .ray/auth_token in the home directory."""
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def make_token(file: Path) -> Token:
    """A new token of 256 bits in `file`, which only its owner can read.

    Raises:
        InputError: there is such a file already, or it cannot be written.
    """
    secret = secrets.token_hex(32)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file.parent}: cannot be made: {error.strerror or error}") from None
    create_file(file, secret.encode(), mode=0o600)
    return Token(str(file), secret)


def read_token(file: Path) -> Token:
    """The token in `file`.

    Raises:
        InputError: others may read it, or it is none, or short enough to be guessed.
    """
    try:
        secret = read_private(file).decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"{file}: holds no token") from None
    return _checked(Token(str(file), secret))


def find_token(environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token that Ray would use, looked for where Ray looks and in its order; None if none.

    Raises:
        InputError: it is open to others, cannot be read, or could be guessed.
    """
    named = environment.get("RAY_AUTH_TOKEN")
    if named:
        return _checked(Token("RAY_AUTH_TOKEN", named.strip()))
    file = default_file(environment)
    if not file.exists() and not environment.get("RAY_AUTH_TOKEN_PATH"):
        return None
    return read_token(file)


def _checked(token: Token) -> Token:
    if len(token.secret) < SHORTEST:
        raise InputError(
            f"{token.where}: a token of {len(token.secret)} characters can be guessed: make one "
            "with codex-ray token"
        )
    return token
