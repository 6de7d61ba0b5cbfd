"""`make demo`: four hospitals' raw files to a guarded endpoint, and two questions to it.

Everything below is a command that a person could type; this file types them, and asks. The files
are generated (codex_ray/bench/heart_disease_twin.py), so that there is nothing to download and
nobody whose record it could be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

from codex_ray.api import RUNS
from codex_ray.bench.heart_disease_twin import write_twin
from codex_ray.records.keys import FOLDER_VARIABLE
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "experiments" / "heart_disease.yaml"
MODEL = "heart_disease"
PATIENTS: dict[str, dict[str, Any]] = {
    "a woman of 42, well": {
        **{"age": 42, "sex": 0, "cp": 2, "trestbps": 118, "chol": 205, "fbs": 0, "restecg": 0},
        **{"thalach": 176, "exang": 0, "oldpeak": 0.0},
    },
    "a man of 63, angina when exercising": {
        **{"age": 63, "sex": 1, "cp": 4, "trestbps": 148, "chol": 268, "fbs": 1, "restecg": 2},
        **{"thalach": 112, "exang": 1, "oldpeak": 2.4},
    },
}
"""Nobody: two sets of values that a physician would tell apart."""
PATIENCE = 120.0
"""Seconds in which the server has to be ready."""


def main(argv: Sequence[str] | None = None) -> int:
    """The whole way; 0 if the endpoint answered as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="DIR", help="real files: DIR/heart/processed.*.data")
    parser.add_argument("--out", metavar="DIR", help="default: runs/demo-001, ...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out or RunDirectory.next_under(RUNS, "demo")).absolute()
    out.mkdir(parents=True)
    raw = out / "raw" if arguments.data is None else Path(arguments.data).absolute()
    if arguments.data is None:
        _tell_files(write_twin(raw))
    os.environ[FOLDER_VARIABLE] = str(out / "keys")
    os.environ["CODEX_RAY_REGISTRY"] = str(out / "models")
    _type("keys", "init")
    settings = [word for one in arguments.set for word in ("--set", one)]
    way = ["pipeline", str(PIPELINE), "--set", f"data.path={raw}", *settings]
    _type(*way, "--out", str(out / "way"))
    _type("certs", "init", "--folder", str(out / "tls"))
    _type("certs", "issue", "localhost", "--folder", str(out / "tls"), "--out", str(out / "node"))
    said = _type("access", "key", "create", "demo", "--budget", "1000", hide=r"crk_\S+")
    key = re.findall(r"crk_\S+", said)[0]
    with _served(out) as address:
        answers = _ask(address, key)
    whose = "generated" if arguments.data is None else "real"
    _show(RunResult.read(out / "way" / "run"), answers, whose=whose)
    print(f"\nAll of it lies in {out}")
    return 0


def _tell_files(files: Sequence[Path]) -> None:
    print("Four hospitals' files, generated: their quirks are real, their patients are not.")
    for file in files:
        lines = file.read_text().splitlines()
        print(f"  {file.name:<28}{len(lines):>4} patients   {lines[0]}")


def _type(*words: str, hide: str | None = None) -> str:
    """Runs a codex-ray command in sight of whoever looks, and returns what it printed."""
    print(f"\n$ {shlex.join(['codex-ray', *words])}", flush=True)
    done = subprocess.Popen(
        [sys.executable, "-m", "codex_ray.cli", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "110"},
    )
    said = []
    assert done.stdout is not None
    for line in done.stdout:
        said.append(line)
        print(line if hide is None else re.sub(hide, "crk_... (kept)", line), end="", flush=True)
    if done.wait():
        raise SystemExit(f"the command ended with status {done.returncode}")
    return "".join(said)


@dataclass(frozen=True)
class Address:
    """Where the endpoint is, and whom to believe that it is the one."""

    url: str
    tls: ssl.SSLContext


@contextmanager
def _served(out: Path) -> Iterator[Address]:
    """The promoted model behind its guard, for the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = out / "node"
    words = ["serve", MODEL, "--local"]
    words += ["--cert", str(node / "node.pem"), "--key", str(node / "node-key.pem")]
    words += ["--port", str(port)]
    print(f"\n$ {shlex.join(['codex-ray', *words])}", flush=True)
    server = subprocess.Popen([sys.executable, "-m", "codex_ray.cli", *words])
    address = Address(
        f"https://localhost:{port}", ssl.create_default_context(cafile=str(node / "ca.pem"))
    )
    try:
        _wait(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: Address, server: subprocess.Popen[bytes]) -> None:
    """Returns when the server is ready."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            if _get(address, "/readyz", key=None)[0] == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {PATIENCE:.0f} seconds")


def _get(
    address: Address, path: str, *, key: str | None, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """(status, answer) of one request."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address.url + path, data=content, headers=headers)
    try:
        with urllib.request.urlopen(request, context=address.tls, timeout=10) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


@dataclass(frozen=True)
class Answers:
    """What the endpoint said."""

    stranger: int
    odd: int
    card: dict[str, Any]
    patients: dict[str, float]


def _ask(address: Address, key: str) -> Answers:
    """Asks without a key, out of range, for the card, and about two patients."""
    inputs = _inputs(_get(address, "/openapi.json", key=key)[1])
    records = [_record(patient, inputs) for patient in PATIENTS.values()]
    asked = {"records": records}
    stranger, _ = _get(address, "/v1/predict", key=None, body=asked)
    odd, _ = _get(
        address, "/v1/predict", key=key, body={"records": [{**records[0], "thalach": -5}]}
    )
    print(f"\n$ curl {address.url}/v1/card")
    _, card = _get(address, "/v1/card", key=key)
    print(json.dumps(card, indent=1)[:2000])
    print(f"\n$ curl {address.url}/v1/predict -d '{json.dumps(asked)[:96]}...'")
    status, said = _get(address, "/v1/predict", key=key, body=asked)
    print(json.dumps(said))
    if status != 200:
        raise SystemExit(f"the endpoint answered {status}")
    told = {
        name: float(one["probabilities"][1])
        for name, one in zip(PATIENTS, said["predictions"], strict=True)
    }
    return Answers(stranger, odd, card, told)


def _inputs(openapi: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the endpoint says it takes, by name."""
    records = openapi["components"]["schemas"]["Request"]["properties"]["records"]
    return dict(records["items"]["oneOf"][0]["properties"])


def _record(patient: dict[str, Any], inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The patient as the endpoint asks for one: categories are texts."""
    return {
        name: patient[name] if "minimum" in json.dumps(said) else str(patient[name])
        for name, said in inputs.items()
    }


def _show(result: RunResult, answers: Answers, *, whose: str) -> None:
    """The closing table."""
    spent = answers.card["card"]["privacy"][0]
    table = Table(title="\nWhat has just happened", box=HEAVY_HEAD, show_lines=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for name, value in (
        (
            "what the server saw",
            f"{result.rounds} noised sums over four hospitals (SecAgg): no record that was trained "
            "on, and no hospital's own step",
        ),
        (
            "what an answer can tell of a record",
            f"epsilon <= {spent['epsilon']:.3g} (delta {spent['delta']:g}): computed again from "
            "the run's own log, and signed",
        ),
        (
            f"right about held-out {whose} patients",
            f"{result.metrics['accuracy']:.1%} (AUC {result.metrics['auc']:.3f})",
        ),
        ("who asks without a key", f"turned away ({answers.stranger})"),
        ("who asks about a heart rate of -5", f"turned away ({answers.odd})"),
        *(
            (name, f"heart disease: {probability:.0%}")
            for name, probability in answers.patients.items()
        ),
    ):
        table.add_row(name, value)
    Console(width=100, highlight=False).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
