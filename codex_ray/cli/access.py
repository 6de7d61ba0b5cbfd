"""`codex-ray access`: keys and tokens for a served model, and what a policy says."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.errors import InputError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands
    from codex_ray.serving.api_keys import ApiKey

DAY = 86400.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}


def add_access(commands: Commands) -> None:
    """The command and its options."""
    access = commands.add_parser("access", help="keys, tokens and rights for a served model")
    kinds = access.add_subparsers(required=True, metavar="WHAT")
    _add_key(kinds)
    _add_token(kinds)
    check = kinds.add_parser("check", help="say whether a policy allows something, and why")
    check.add_argument("action", help="such as model:Predict")
    check.add_argument("--policy", metavar="FILE", help="default: the one of a server without")
    check.add_argument("--role", action="append", required=True, help="may be given again")
    check.add_argument("--resource", default="model/any/1", help="default: %(default)s")
    check.set_defaults(command=_check)


def _add_key(kinds: Commands) -> None:
    key = kinds.add_parser("key", help="make, list, rotate and revoke keys")
    actions = key.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("name", help="whose it is, or what for")
    create.add_argument("--role", action="append", help="may be given again (default: user)")
    create.add_argument(
        "--scope", action="append", help="actions it is for, * is any (default: model:*)"
    )
    create.add_argument("--budget", type=int, metavar="N", help="records it may ever ask about")
    create.add_argument("--rate", type=float, metavar="R", help="requests a second")
    create.add_argument("--days", type=float, default=90.0, help="good for so long (default: 90)")
    create.set_defaults(command=_create)
    listing = actions.add_parser("list", help="show the keys, without their secrets")
    listing.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="end a key; servers notice within a second or two")
    revoke.add_argument("id", help="as list shows it")
    revoke.set_defaults(command=_revoke)
    rotate = actions.add_parser("rotate", help="make another in its place; both work for a while")
    rotate.add_argument("id", help="as list shows it")
    rotate.add_argument("--days", type=float, default=90.0, help="of the new one (default: 90)")
    rotate.add_argument(
        "--overlap", default="24h", metavar="TIME", help="until the old one ends (default: 24h)"
    )
    rotate.set_defaults(command=_rotate)
    for action in (create, listing, revoke, rotate):
        action.add_argument(
            "--keys", metavar="FILE", help="default: ~/.config/codex_ray/access.json"
        )


def _add_token(kinds: Commands) -> None:
    token = kinds.add_parser("token", help="sign a token with your key (codex-ray keys init)")
    token.add_argument("subject", help="whose it is")
    token.add_argument("--audience", required=True, help="the server's, as it was started with")
    token.add_argument("--role", action="append", help="may be given again (default: user)")
    token.add_argument("--scope", action="append", help="default: model:Predict")
    token.add_argument("--budget", type=int, metavar="N", help="records the subject may ask about")
    token.add_argument("--for", dest="time", default="1h", metavar="TIME", help="default: 1h")
    token.add_argument("--signing-keys", metavar="DIR", help="default: $CODEX_RAY_KEYS, or yours")
    token.set_defaults(command=_token)


def keys_file(given: str | None) -> Path:
    """The file of the keys that was given, or the usual one."""
    from codex_ray.records.keys import key_folder

    return key_folder() / "access.json" if given is None else Path(given)


def seconds_in(text: str, *, option: str) -> float:
    """The seconds of a text such as 30s, 15m, 24h or 7d.

    Raises:
        InputError: it is none.
    """
    try:
        found = float(text[:-1]) * UNITS[text[-1:]]
    except (ValueError, KeyError):
        raise InputError(f"{option} {text}: write a number and s, m, h or d, such as 24h") from None
    if not 0 <= found < 1e9:
        raise InputError(f"{option} {text}: is out of range")
    return found


def _create(arguments: argparse.Namespace) -> int:
    from codex_ray.serving.key_file import KeyFile

    file = KeyFile(keys_file(arguments.keys))
    key, shown = file.create(
        arguments.name,
        roles=tuple(arguments.role or ("user",)),
        scopes=tuple(arguments.scope or ("model:*",)),
        now=time.time(),
        seconds=arguments.days * DAY,
        budget=arguments.budget,
        rate=arguments.rate,
    )
    print(shown)
    print(f"shown this once; {file.path} holds its hash alone. id {key.id}, until {_day(key)}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from codex_ray.serving.key_file import KeyFile

    keys = KeyFile(keys_file(arguments.keys)).read()
    now = time.time()
    for key in keys:
        budget = "any number of records" if key.budget is None else f"{key.budget} records"
        print(
            f"{key.id}  {key.state(now):8}  until {_day(key)}  {key.name}  "
            f"roles {','.join(key.roles)}  scopes {','.join(key.scopes)}  {budget}"
            + (f"  replaced by {key.replaced_by}" if key.replaced_by else "")
        )
    if not keys:
        print("no keys: make one with codex-ray access key create NAME")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from codex_ray.serving.key_file import KeyFile

    key = KeyFile(keys_file(arguments.keys)).revoke(arguments.id, now=time.time())
    print(f"{key.id} ({key.name}) is revoked")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from codex_ray.serving.key_file import KeyFile

    old, new, shown = KeyFile(keys_file(arguments.keys)).rotate(
        arguments.id,
        now=time.time(),
        seconds=arguments.days * DAY,
        overlap=seconds_in(arguments.overlap, option="--overlap"),
    )
    print(shown)
    ends = datetime.fromtimestamp(old.expires, UTC)
    print(f"shown this once. id {new.id}, until {_day(new)}; {old.id} ends {ends:%Y-%m-%d %H:%M}")
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import key_folder, read_signing_key
    from codex_ray.serving.tokens import Terms, issue_token

    folder = key_folder() if arguments.signing_keys is None else Path(arguments.signing_keys)
    key = read_signing_key(folder)
    if key is None:
        raise InputError(f"{folder}: there is no key in it: make one with codex-ray keys init")
    terms = Terms(
        subject=arguments.subject,
        audience=arguments.audience,
        roles=tuple(arguments.role or ("user",)),
        scopes=tuple(arguments.scope or ("model:Predict",)),
        seconds=seconds_in(arguments.time, option="--for"),
        budget=arguments.budget,
    )
    print(issue_token(key, terms, now=time.time()))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from codex_ray.serving.policy import DEFAULT, read_policy

    policy = DEFAULT if arguments.policy is None else read_policy(Path(arguments.policy))
    decision = policy.decide(arguments.role, arguments.action, arguments.resource)
    print(decision.words)
    return 0 if decision.allowed else 1


def _day(key: ApiKey) -> str:
    return f"{datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d}"
