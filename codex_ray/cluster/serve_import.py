"""The guarded application as a Serve config names it: for `serve deploy`, and for a RayService.

    applications:
      - name: model
        route_prefix: /
        import_path: codex_ray.cluster.serve_import:application
        args: {model: heart, registry: /models, trust: [/trust/signer.pem], ...}

The cluster and Serve's proxy are of whoever wrote the config, so TLS ends in a proxy in front of
them, and without one that says so nobody is answered. All paths have to lead to the same files on
every node.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import ray
from pydantic import Field, ValidationError

from codex_ray.cluster.serve_app import Lender, Scale, deployment
from codex_ray.errors import InputError
from codex_ray.records.keys import read_trusted_key
from codex_ray.registry import PRODUCTION
from codex_ray.serving.addresses import Doors
from codex_ray.serving.application import Settings
from codex_ray.serving.from_registry import Source
from codex_ray.serving.limits import Limits
from codex_ray.serving.local import MISSING
from codex_ray.serving.policy import DEFAULT, read_policy
from codex_ray.types import Component


class Served(Component):
    """What is served, to whom, and by how many: the `args` of an application in a Serve config."""

    model: str = Field(min_length=1, description="Name of a registered model.")
    registry: Path = Field(description="Folder of the registry.")
    trust: tuple[Path, ...] = Field(
        min_length=1, description="Public keys of those who are believed on models."
    )
    keys: Path = Field(description="File of the keys that callers have.")
    budgets: Path = Field(description="File of what is left of each caller's budget.")
    stage: str = Field(default=PRODUCTION, description="That is followed.")
    head: str | None = Field(
        default=None, description="EVENTS:HASH of codex-ray models verify: refuses an older one."
    )
    policy: Path | None = Field(default=None, description="Roles and rights; None: the default.")
    proxies: int = Field(
        default=1, ge=1, le=8, description="Proxies of yours in front; the first ends TLS."
    )
    proxy_addresses: tuple[str, ...] = Field(
        default=(),
        description="Networks from which the nearest of them connects; empty: nobody else can "
        "reach the port.",
    )
    replicas: int = Field(
        default=1, ge=1, le=256, description="How many; rates are divided among them."
    )
    cpus: float = Field(default=1.0, gt=0, description="That each replica reserves.")
    decimals: int = Field(default=4, ge=0, le=15, description="Of probabilities.")


def application(args: Mapping[str, Any]) -> Any:
    """The application of a Serve config, from its `args`; Serve calls this on the cluster.

    Raises:
        InputError: the arguments are not those of `Served`, or Ray Serve is not installed.
        CodexRayError: the model cannot be believed, or not be built: nothing is started then.
    """
    try:
        from ray import serve
    except ImportError:
        raise InputError(MISSING) from None
    asked = read_arguments(args)
    settings, source = told(asked)
    models = source.open()
    models.load()  # what cannot be served is said now, and in words
    source = replace(source, head=models.head())  # for replicas that start later
    book = str(asked.budgets.absolute())
    # It outlives whoever builds the application. Of a book there is one, whoever asks for it.
    lender = ray.remote(Lender).options(
        name=f"codex_ray lender of {book}",
        namespace="codex_ray",
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
    )
    scale = Scale(least=asked.replicas, most=asked.replicas, cpus=asked.cpus)
    return deployment(serve, settings, scale).bind(settings, source, lender.remote(book))


def read_arguments(args: Mapping[str, Any]) -> Served:
    """The arguments, checked.

    Raises:
        InputError: one is missing, unknown or out of its range, by name.
    """
    try:
        return Served.model_validate(dict(args))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"args.{where}: {first['msg']}: see docs/serving.md") from None


def _networks(named: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(it)) for it in named)
    except ValueError as error:
        raise InputError(f"args.proxy_addresses: {error}: see docs/serving.md") from None


def told(asked: Served) -> tuple[Settings, Source]:
    """How each replica is set up, and where its models are.

    Raises:
        CodexRayError: a file cannot be read, or holds something else.
    """
    settings = Settings(
        limits=Limits().shared_by(asked.replicas),
        keys=asked.keys.absolute(),
        audience=asked.model,
        secret=secrets.token_bytes(32),
        policy=DEFAULT if asked.policy is None else read_policy(asked.policy),
        doors=Doors(proxies=asked.proxies, nearest=_networks(asked.proxy_addresses)),
        decimals=asked.decimals,
    )
    source = Source(
        folder=asked.registry.absolute(),
        trusted=tuple(read_trusted_key(file) for file in asked.trust),
        name=asked.model,
        stage=asked.stage,
        head=asked.head,
    )
    return settings, source
