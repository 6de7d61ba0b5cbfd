"""The options of `codex-ray serve`: which model, where, who may ask, and how much."""

from __future__ import annotations

import argparse


def add_options(serve: argparse.ArgumentParser) -> None:
    """All of them."""
    serve.add_argument(
        "model", metavar="NAME[@VERSION]", help="without a version, what is promoted, as it changes"
    )
    serve.add_argument("--registry", metavar="DIR", help="default: $CODEX_RAY_REGISTRY, or models")
    serve.add_argument("--stage", default="production", help="that is followed (%(default)s)")
    serve.add_argument(
        "--head",
        metavar="EVENTS:HASH",
        help="refuse a registry that is older than this (codex-ray models verify prints it)",
    )
    serve.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="FILE",
        help="public key of whoever is believed on models; may be given again (default: yours)",
    )
    serve.add_argument("--inputs", metavar="FILE", help="names, ranges and scaling of the inputs")
    serve.add_argument(
        "--input-shape", metavar="N[,N...]", help="of one record, where the registry has none"
    )
    _add_where(serve)
    _add_who(serve)
    _add_how_much(serve)
    serve.add_argument(
        "--allow-uncertified",
        action="store_true",
        help="UNSAFE: serve a version that has no privacy certificate",
    )
    serve.add_argument(
        "--insecure-http",
        action="store_true",
        help="UNSAFE: without TLS: keys and records cross the network for all to read",
    )


def _add_where(serve: argparse.ArgumentParser) -> None:
    where = serve.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    where.add_argument("--port", type=int, default=8443, help="default: %(default)s")
    where.add_argument("--cert", metavar="FILE", help="certificate in PEM (codex-ray certs issue)")
    where.add_argument("--key", metavar="FILE", help="its private key in PEM")
    where.add_argument(
        "--proxies",
        type=int,
        default=0,
        metavar="N",
        help="proxies of yours in front, the first of which ends TLS; they are believed on "
        "X-Forwarded-For and X-Forwarded-Proto",
    )
    where.add_argument(
        "--proxy-address",
        action="append",
        default=[],
        metavar="NETWORK",
        help="from which the nearest of them connects, such as 10.0.0.7 or 10.0.0.0/24; may be "
        "given again (default: any, at an address of this machine alone)",
    )
    where.add_argument("--local", action="store_true", help="one process, without Ray")
    where.add_argument(
        "--haproxy",
        action="store_true",
        help="HAProxy in the place of Serve's proxy: several times as many requests",
    )
    where.add_argument("--cluster", default="local", metavar="ADDRESS", help="a running Ray")
    where.add_argument("--insecure-local", action="store_true", help="UNSAFE: take an open Ray")
    where.add_argument("--replicas", default="1", metavar="N[-M]", help="M: as many under load")


def _add_who(serve: argparse.ArgumentParser) -> None:
    who = serve.add_argument_group("who may ask")
    who.add_argument(
        "--keys", metavar="FILE", help="of codex-ray access key (~/.config/codex_ray/access.json)"
    )
    who.add_argument("--policy", metavar="FILE", help="roles and rights, in YAML or JSON")
    who.add_argument(
        "--issuer",
        action="append",
        default=[],
        metavar="FILE",
        help="public key whose tokens are believed; may be given again (default: none)",
    )
    who.add_argument(
        "--audience",
        metavar="NAME",
        help="of tokens (default: NAME of the model, and NAME/STAGE in any other stage)",
    )
    who.add_argument("--access-log", metavar="FILE", help="default: access.jsonl by the keys")
    who.add_argument(
        "--access-log-bytes",
        type=int,
        default=64 * 2**20,
        metavar="N",
        help="until it goes on as FILE.1 and begins anew (67108864)",
    )
    who.add_argument("--budgets", metavar="FILE", help="default: budgets.sqlite by the keys")


def _add_how_much(serve: argparse.ArgumentParser) -> None:
    much = serve.add_argument_group("how much")
    much.add_argument("--rate", type=float, default=100.0, help="requests a second of a key (100)")
    much.add_argument("--address-rate", type=float, default=200.0, help="of an address (200)")
    much.add_argument("--ongoing", type=int, default=64, help="requests at a time (64)")
    much.add_argument("--body-bytes", type=int, default=256 * 1024, help="of a request (262144)")
    much.add_argument("--decimals", type=int, default=4, help="of probabilities (4)")
    much.add_argument("--batch", type=int, default=64, help="records computed together (64)")
    much.add_argument("--batch-ms", type=float, default=0.0, help="to wait for company (0)")
