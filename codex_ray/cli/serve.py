"""`codex-ray serve`: a model out of the registry, behind the guard, until Ctrl-C."""

from __future__ import annotations

import argparse
import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.cli.ending import sigterm_as_interrupt
from codex_ray.cli.listening import listening_of, proxy_networks
from codex_ray.cli.serve_options import add_options
from codex_ray.errors import InputError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands
    from codex_ray.serving.application import Settings
    from codex_ray.serving.from_registry import Source
    from codex_ray.serving.local import Listening


def add_serve(commands: Commands) -> None:
    """The command and its options."""
    serve = commands.add_parser("serve", help="answer predictions with a registered model")
    add_options(serve)
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    listening = listening_of(arguments)
    settings, source = _settings(arguments), _source(arguments)
    keys = settings.keys
    book = keys.parent / "budgets.sqlite" if arguments.budgets is None else Path(arguments.budgets)
    for switch in settings.unsafe:
        print(f"unsafe: {switch}")
    scheme = "http" if listening.certificate is None else "https"
    said = (
        f"serving {arguments.model} at {scheme}://{listening.host}:{listening.port}/ (Ctrl-C ends)"
    )
    if arguments.local and arguments.haproxy:
        raise InputError("--local is one process, which takes no --haproxy: leave one of them out")
    if arguments.local:
        return _alone(settings, source, book, listening, said)
    return _on_ray(arguments, settings, source, book, listening, said)


def _alone(settings: Settings, source: Source, book: Path, listening: Listening, said: str) -> int:
    from codex_ray.serving.application import Application
    from codex_ray.serving.budgets import Book, LentHere
    from codex_ray.serving.local import make_server

    models = source.open()
    models.load()  # what cannot be served is said now, and in words
    kept = Book(book)
    try:
        server = make_server(Application(settings, models, lend=LentHere(kept)), listening)
        print(said, flush=True)
        # uvicorn says it once more when all is answered, of a SIGTERM too.
        with suppress(KeyboardInterrupt), sigterm_as_interrupt():
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

    source = _held(source)
    least, most = _replicas(arguments.replicas)
    with serving(  # Ray turns a SIGTERM into SystemExit, which closes all of this as well
        settings,
        source,
        book=book,
        listening=listening,
        scale=Scale(least=least, most=most),
        address=arguments.cluster,
        insecure_local=arguments.insecure_local,
        haproxy=arguments.haproxy,
    ) as overlooked:
        for note in overlooked:
            print(f"unsafe: {note}")
        print(said, flush=True)
        try:
            with sigterm_as_interrupt():  # again, for Ray has put its own in the place of ours
                serve_until_interrupted()
        except KeyboardInterrupt:
            print("ending: answers that are under way are given", flush=True)
    return 0


def _held(source: Source) -> Source:
    """The source, with the registry held to what it is now, for replicas that start later.

    Raises:
        CodexRayError: its model cannot be served, which is said now, and in words.
    """
    models = source.open()
    models.load()
    return replace(source, head=models.head())


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
        audience=arguments.audience or _audience(name, arguments.stage),
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
        doors=Doors(
            insecure_http=arguments.insecure_http,
            proxies=arguments.proxies,
            nearest=proxy_networks(arguments),
        ),
        decimals=arguments.decimals,
        batch=arguments.batch,
        batch_seconds=arguments.batch_ms / 1000.0,
        log=Path(log).absolute(),
        log_bytes=arguments.access_log_bytes,
        unsafe=tuple(unsafe),
    )


def _audience(name: str, stage: str) -> str:
    """Whom a token has to be for: one for staging is not to open production."""
    return name if stage == "production" else f"{name}/{stage}"


def _check_numbers(arguments: argparse.Namespace) -> None:
    bounds: dict[str, tuple[float, float]] = {
        "port": (0, 65535),
        "proxies": (0, 8),
        "rate": (0.01, 1e6),
        "address_rate": (0.01, 1e6),
        "ongoing": (1, 4096),
        "body_bytes": (64, 16 * 2**20),
        "access_log_bytes": (2**16, 2**40),
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
        head=arguments.head,
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
