"""A host imports nothing that it has no use for: there may be ten of them on two cores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_ray.cluster.hosts import only_ours
from codex_ray.config import experiment_from, resolved
from codex_ray.threads import TABLES

HEAVY = (
    "dp_accounting", "fsspec", "matplotlib", "opacus", "pandas", "pyarrow", "rich",
    "scipy.optimize", "scipy.signal", "scipy.stats", "sklearn", "sympy", "tensorboard",
    "torch._dynamo", "torch._inductor",
    *sorted(TABLES),
)  # fmt: skip
SOONER = ("torch", "scipy", "matplotlib", "tensorboard", "dp_accounting")
"""What is not to be waited for before Ray or hosts are started."""


def _imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the modules a new process has imported when it has run the code."""
    code += f"\nimport sys\nprint([name for name in {names} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.strip().replace("'", '"'))  # type: ignore[no-any-return]  # names


def _built(experiment: dict[str, Any]) -> str:
    """Code that builds the host of the experiment as Ray does."""
    spec = json.dumps(resolved(experiment_from(experiment)))
    return f"from codex_ray.cluster.hosts import HostServer\nHostServer({spec!r}, [])"


def test_a_host_is_built_without_accountant_plots_statistics_and_the_tables_of_torch(
    silos: dict[str, Any], devices: dict[str, Any]
) -> None:
    assert _imported(_built(silos), (*HEAVY, "scipy")) == []
    assert _imported(_built(devices), HEAVY) == []  # Poisson cohorts take a tail from scipy.special


def test_a_host_with_a_factory_of_somebody_else_has_all_of_torch(silos: dict[str, Any]) -> None:
    silos["model"] = {"kind": "python", "factory": "torch.nn:Linear", "arguments": {}}
    assert only_ours({"model": {"kind": "linear"}, "data": {"kind": "breast_cancer"}})
    assert not only_ours(silos)
    assert not only_ours(silos | {"model": {"kind": "linear"}, "data": {"kind": "python"}})
    assert not only_ours({"model": {"kind": "linear"}})  # nobody knows yet


@pytest.mark.parametrize("module", ["hosts", "coordinator", "session", "transport"])
def test_hosts_are_started_before_anything_slow_is_imported(module: str) -> None:
    assert _imported(f"import codex_ray.cluster.{module}", SOONER) == []


def test_a_yaml_is_read_before_anything_slow_is_imported() -> None:
    assert _imported("import codex_ray.config, codex_ray.cli.run", (*SOONER, "ray")) == []


def test_a_driver_draws_and_writes_nothing_before_the_first_round() -> None:
    heavy = ("matplotlib", "tensorboard", "sklearn", "dp_accounting", "opacus")
    assert _imported("import codex_ray.api, codex_ray.records.console", heavy) == []


STARTS = """
import sys
from contextlib import contextmanager
import codex_ray.cluster.session as session
from codex_ray.cli import main
@contextmanager
def started(address, *, meanwhile=None):
    print(address, "torch" in sys.modules, callable(meanwhile))
    raise SystemExit
    yield
session.ray_session = started
main({arguments})
"""


def test_the_command_starts_ray_before_it_imports_torch(tmp_path: Path) -> None:
    file, taken = tmp_path / "experiment.yaml", tmp_path / "taken"
    file.write_text("cluster: {hosts: 2}")
    taken.mkdir()
    (taken / "other").touch()
    for out, expected in ((tmp_path / "free", "local False True\n"), (taken, "")):
        arguments = ["run", str(file), "--out", str(out)]
        command = [sys.executable, "-c", STARTS.format(arguments=arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.stdout == expected, found.stderr
