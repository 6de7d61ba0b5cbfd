"""A Serve config starts the guarded application by its name, as a RayService does on Kubernetes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

import ray
import requests
from real_head import free_port

import codex_ray
from codex_ray.bench.small_runs import SERVED
from codex_ray.cluster.doors import own_ray
from codex_ray.cluster.serve_import import application, read_arguments, told
from codex_ray.errors import InputError
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry import Registry
from codex_ray.serving.buckets import Rate
from codex_ray.serving.key_file import KeyFile


class Shop:
    """A registry with a promoted model, a key to ask it with, and the args that name them."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(FOLDER_VARIABLE, str(folder / "signing"))
            key, public = make_keys(folder / "signing")
            registry = Registry.create(folder / "models", key=key)
            codex_ray.run(SERVED, out=folder / "run")
            registry.register(folder / "run", "tumour")
            registry.promote("tumour", 1)
        self.size = int(np.prod(registry.manifest(registry.version("tumour", 1)).input_shape))
        keys = KeyFile(folder / "access" / "keys.json")
        terms: dict[str, Any] = {"scopes": ("*",), "now": time.time(), "seconds": 3600.0}
        self.key = keys.create("alice", roles=("user",), budget=100, **terms)[1]
        self.args: dict[str, Any] = {
            "model": "tumour",
            "registry": str(folder / "models"),
            "trust": [str(public)],
            "keys": str(keys.path),
            "budgets": str(folder / "state" / "budgets.sqlite"),
        }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def test_what_is_missing_unknown_or_out_of_range_is_named(shop: Shop) -> None:
    for wrong, words in (
        ({"trust": []}, r"args\.trust: .*at least 1"),
        ({"replica": 2}, r"args\.replica: "),
        ({"proxies": 0}, r"args\.proxies: .*greater than or equal to 1"),
    ):
        with pytest.raises(InputError, match=words):
            read_arguments(shop.args | wrong)
    with pytest.raises(InputError, match=r"args\.keys: "):
        read_arguments({name: it for name, it in shop.args.items() if name != "keys"})


def test_rates_are_divided_and_tls_ends_before_it(shop: Shop) -> None:
    settings, source = told(read_arguments(shop.args | {"replicas": 4}))
    assert settings.limits.per_key == Rate(25.0, 50.0) and settings.doors.proxies == 1
    assert not settings.doors.insecure_http and settings.unsafe == ()
    assert source.open().load().version == "1"


@pytest.fixture
def served(shop: Shop) -> Iterator[str]:
    """Where it answers, once it does, started by a config as a dashboard is sent one."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    port = free_port()
    one = {
        "name": "model",
        "route_prefix": "/",
        "import_path": f"{application.__module__}:{application.__name__}",
        "args": shop.args | {"cpus": 0.5},
    }
    with own_ray():
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            _get_global_client().deploy_apps(
                ServeDeploySchema.model_validate({"applications": [one]}), _blocking=True
            )
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


@pytest.mark.slow
def test_it_answers_whoever_has_a_key_and_comes_by_tls(shop: Shop, served: str) -> None:
    record = {"records": [[0.1] * shop.size] * 60}
    own = {"Authorization": f"Bearer {shop.key}"}
    behind = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}

    def ask(**headers: str) -> requests.Response:
        return requests.post(f"{served}/v1/predict", json=record, headers=headers, timeout=60)

    assert ask(**own).status_code == 403  # no ingress says that it came by TLS
    assert ask(**behind).status_code == 401
    said = ask(**own, **behind)
    assert said.status_code == 200, said.text
    assert said.json()["version"] == "1" and len(said.json()["predictions"]) == 60
    # 60 of 100 records are spent, by a book that outlived whoever built the application.
    assert ask(**own, **behind).status_code == 403
    names = [it["name"] for it in ray.util.list_named_actors(all_namespaces=True)]
    assert [name for name in names if name.startswith("codex_ray lender of")] != []
