"""`codex-ray serve`: a model out of the registry, behind the guard, until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.errors import InputError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands
    from codex_ray.serving.application import Settings
    from codex_ray.serving.from_registry import Source
    from codex_ray.serving.local import Listening


def add_serve(commands: Commands) -> None:
    """The command and its options."""
    serve = commands.add_parser("serve", help="answer predictions with a registered model")
    serve.add_argument(
        "model", metavar="NAME[@VERSION]", help="without a version, what is promoted, as it changes"
    )
    serve.add_argument("--registry", metavar="DIR", help="default: $CODEX_RAY_REGISTRY, or models")
    serve.add_argument("--stage", default="production", help="that is followed (%(default)s)")
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
    serve.set_defaults(command=_serve)


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
    where.add_argument("--local", action="store_true", help="one process, without Ray")
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
    who.add_argument("--audience", metavar="NAME", help="of tokens (default: NAME of the model)")
    who.add_argument("--access-log", metavar="FILE", help="default: access.jsonl by the keys")
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


def _serve(arguments: argparse.Namespace) -> int:
    listening = _listening(arguments)
    settings, source = _settings(arguments), _source(arguments)
    keys = settings.keys
    book = keys.parent / "budgets.sqlite" if arguments.budgets is None else Path(arguments.budgets)
    for switch in settings.unsafe:
        print(f"unsafe: {switch}")
    scheme = "http" if listening.certificate is None else "https"
    said = (
        f"serving {arguments.model} at {scheme}://{listening.host}:{listening.port}/ (Ctrl-C ends)"
    )
    if arguments.local:
        return _alone(settings, source, book, listening, said)
    return _on_ray(arguments, settings, source, book, listening, said)


def _alone(settings: Settings, source: Source, book: Path, listening: Listening, said: str) -> int:
    from codex_ray.serving.application import Application
    from codex_ray.serving.budgets import Book, lend_here
    from codex_ray.serving.local import make_server

    models = source.open()
    models.load()  # what cannot be served is said now, and in words
    kept = Book(book)
    try:
        server = make_server(Application(settings, models, lend=lend_here(kept)), listening)
        print(said, flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn says it once more when all is answered
            server.run()
    finally:
        kept.close()
    return 0


def _on_ray(
    arguments: argparse.Namespace,
    settings: Settings,
    source: Source,
    book: Path,
    listening: Listening,
    said: str,
) -> int:
    from codex_ray.cluster.serve_app import Scale, serve_until_interrupted, serving

    source.open().load()
    least, most = _replicas(arguments.replicas)
    with serving(
        settings,
        source,
        book=book,
        listening=listening,
        scale=Scale(least=least, most=most),
        address=arguments.cluster,
        insecure_local=arguments.insecure_local,
    ) as overlooked:
        for note in overlooked:
            print(f"unsafe: {note}")
        print(said, flush=True)
        try:
            serve_until_interrupted()
        except KeyboardInterrupt:
            print("ending: answers that are under way are given", flush=True)
    return 0


def _listening(arguments: argparse.Namespace) -> Listening:
    """Where to listen, with TLS unless somebody took that upon themselves.

    Raises:
        InputError: there is no certificate.
    """
    from codex_ray.serving.local import Listening

    if (arguments.cert is None) != (arguments.key is None):
        raise InputError("--cert and --key go together: give both")
    if arguments.cert is None and not (arguments.insecure_http or arguments.proxies):
        raise InputError(
            "there is no certificate: make one with codex-ray certs init and codex-ray certs issue "
            f"{arguments.host}, and give its node.pem as --cert and node-key.pem as --key"
        )
    if arguments.cert is None:
        return Listening(arguments.host, arguments.port)
    certificate, key = Path(arguments.cert), Path(arguments.key)
    _check_pair(certificate, key)
    return Listening(arguments.host, arguments.port, certificate, key)


def _check_pair(certificate: Path, key: Path) -> None:
    """Raises InputError where others may read the key, or the two are no pair."""
    import ssl

    from codex_ray.records.private_files import read_private

    read_private(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{certificate} and {key}: cannot be used for TLS: {error}") from None


def _settings(arguments: argparse.Namespace) -> Settings:
    from codex_ray.cli.access import keys_file
    from codex_ray.records.keys import read_trusted_key
    from codex_ray.serving.addresses import Doors
    from codex_ray.serving.application import Settings
    from codex_ray.serving.buckets import Rate
    from codex_ray.serving.limits import Limits
    from codex_ray.serving.policy import DEFAULT, read_policy

    _check_numbers(arguments)
    keys = keys_file(arguments.keys).absolute()
    log = keys.parent / "access.jsonl" if arguments.access_log is None else arguments.access_log
    name, _ = _name_and_version(arguments.model)
    unsafe = [
        name
        for name, on in (
            ("insecure_http", arguments.insecure_http),
            ("allow_uncertified", arguments.allow_uncertified),
            ("insecure_local", arguments.insecure_local and not arguments.local),
        )
        if on
    ]
    return Settings(
        keys=keys,
        audience=arguments.audience or name,
        secret=secrets.token_bytes(32),
        issuers=tuple(read_trusted_key(Path(file)) for file in arguments.issuer),
        policy=DEFAULT if arguments.policy is None else read_policy(Path(arguments.policy)),
        limits=Limits(
            body_bytes=arguments.body_bytes,
            per_key=Rate(arguments.rate, 2 * arguments.rate),
            per_address=Rate(arguments.address_rate, 2 * arguments.address_rate),
            ongoing=arguments.ongoing,
            ongoing_per_caller=max(1, arguments.ongoing * 3 // 4),
        ),
        doors=Doors(insecure_http=arguments.insecure_http, proxies=arguments.proxies),
        decimals=arguments.decimals,
        batch=arguments.batch,
        batch_seconds=arguments.batch_ms / 1000.0,
        log=Path(log).absolute(),
        unsafe=tuple(unsafe),
    )


def _check_numbers(arguments: argparse.Namespace) -> None:
    bounds: dict[str, tuple[float, float]] = {
        "port": (0, 65535),
        "proxies": (0, 8),
        "rate": (0.01, 1e6),
        "address_rate": (0.01, 1e6),
        "ongoing": (1, 4096),
        "body_bytes": (64, 16 * 2**20),
        "decimals": (0, 15),
        "batch": (1, 4096),
        "batch_ms": (0, 1000),
    }
    for name, (low, high) in bounds.items():
        value: Any = getattr(arguments, name)
        if not low <= value <= high:
            raise InputError(f"--{name.replace('_', '-')} {value}: is from {low:g} to {high:g}")


def _source(arguments: argparse.Namespace) -> Source:
    from codex_ray.registry import registry_folder, trusted_keys
    from codex_ray.serving.from_registry import Source
    from codex_ray.serving.inputs import read_inputs

    folder = registry_folder() if arguments.registry is None else Path(arguments.registry)
    name, version = _name_and_version(arguments.model)
    trusted = trusted_keys([Path(file) for file in arguments.trust], registry=folder)
    return Source(
        folder=folder.absolute(),
        trusted=tuple(trusted),
        name=name,
        version=version,
        stage=arguments.stage,
        inputs=None if arguments.inputs is None else read_inputs(Path(arguments.inputs)),
        input_shape=None if arguments.input_shape is None else _shape(arguments.input_shape),
        unsafe=("allow_uncertified",) if arguments.allow_uncertified else (),
    )


def _name_and_version(model: str) -> tuple[str, int | None]:
    name, at, number = model.partition("@")
    if not name or (at and not (number.isdecimal() and number.isascii())):
        raise InputError(f"{model}: write NAME, or NAME@VERSION with a number, such as heart@3")
    return name, int(number) if at else None


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isdecimal() and size.isascii() and 0 < int(size) < 10**6 for size in sizes):
        raise InputError(f"--input-shape {text}: write the sizes of one record, such as 1,28,28")
    return tuple(int(size) for size in sizes)


def _replicas(text: str) -> tuple[int, int]:
    least, dash, most = text.partition("-")
    numbers = [least, most] if dash else [least, least]
    if not all(number.isdecimal() and number.isascii() for number in numbers):
        raise InputError(f"--replicas {text}: write N, or N-M")
    found = int(numbers[0]), int(numbers[1])
    if not 1 <= found[0] <= found[1] <= 256:
        raise InputError(f"--replicas {text}: from 1 to 256, the first not above the second")
    return found
