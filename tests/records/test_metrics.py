"""What Prometheus reads: right, whole at any moment, on loopback only, nothing before the noise."""

from __future__ import annotations

import json
import logging
import math
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rounds_told import told

import codex_ray
from codex_ray.errors import ConfigError
from codex_ray.federation.run import EXTRAPOLATED
from codex_ray.records import tally
from codex_ray.records.json_logs import COORDINATOR_LOST, HOST_LOST, HOST_REPLACED, JsonLog
from codex_ray.records.metrics import ALL, COORDINATOR, Metrics, Subject
from codex_ray.records.prometheus_text import Sample, Series, to_text

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana" / "codex_ray.json"
SUBJECT = Subject(run="r-001", rounds=5, delta=1e-5, budget=9.0)
OWN = (
    "cohort_clients", "survivor_clients", "clients_asked_total", "clients_dropped_total",
    "rounds_aborted_total", "masks_recovered_total", "bytes_up_total", "field_seconds_total",
)  # fmt: skip
LOST = ("hosts_lost", "hosts_replaced", "coordinators_lost")

Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: bytes) -> Found:
    """The figures in a text by name and labels, as the format's own library reads them."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def figure(found: Found, name: str, **labels: str) -> float:
    """The one figure of that name and with these labels, whatever others it has."""
    (value,) = [
        value
        for (its, has), value in found.items()
        if its == f"codex_ray_{name}" and labels.items() <= dict(has).items()
    ]
    return value


def observed(tmp_path: Path, results: list[Any], **other: Any) -> Found:
    metrics = Metrics(tmp_path / "metrics.prom", subject=other.pop("subject", SUBJECT), **other)
    for result in results:
        metrics.round(result)
    metrics.close()
    return read((tmp_path / "metrics.prom").read_bytes())


def test_a_run_adds_up(tmp_path: Path) -> None:
    aborted = told(1, aborted="too few", attempts=3, survivors=0, metrics={}, epsilon={})
    found = observed(tmp_path, [told(0), aborted])
    assert figure(found, "rounds_total") == 2 and figure(found, "rounds_planned") == 5
    assert figure(found, "rounds_aborted_total") == 1
    assert figure(found, "round_retries_total") == 2
    assert figure(found, "cohort_clients") == 10 and figure(found, "survivor_clients") == 0
    assert figure(found, "clients_dropped_total", stage="unmask") == 2
    assert figure(found, "stage_seconds_total", stage="train") == 0.5
    assert figure(found, "last_round_stage_seconds", stage="sum") == 0.125
    assert figure(found, "field_seconds_total") == 64.0
    assert figure(found, "bytes_up_total") == 2000 and figure(found, "masks_recovered_total") == 18
    assert figure(found, "epsilon_spent", unit="client", scope="public") == 0.5
    assert figure(found, "epsilon_budget") == 9.0 and figure(found, "delta") == 1e-5
    assert figure(found, "metric", metric="accuracy") == 0.75  # of the round that had one
    assert figure(found, "release", figure="signal_to_noise") == 0.1
    assert all(dict(labels)["run"] == "r-001" for _, labels in found)


def test_every_series_has_help_and_type_before_its_figures(tmp_path: Path) -> None:
    observed(tmp_path, [told(0, epsilon={"client": 1.0, EXTRAPOLATED: 0.1})])
    lines = (tmp_path / "metrics.prom").read_text().splitlines()
    for series in ALL:
        at = lines.index(f"# TYPE {series.name} {series.kind}")
        assert lines[at - 1] == f"# HELP {series.name} {series.help}"
        assert lines[at + 1].startswith(series.name + "{")
        assert (series.kind == "counter") == series.name.endswith("_total")


def test_hidden_cohorts_are_the_coordinators_own(tmp_path: Path) -> None:
    hiding = Subject(
        run="r", rounds=5, delta=1e-5, hides_cohorts=True, own_epsilon=frozenset({"client"})
    )
    spent = {"client": 2.0, "client_against_outsiders": 1.0}
    metrics = Metrics(tmp_path / "metrics.prom", subject=hiding)
    metrics.round(told(0, epsilon=spent))
    metrics.close()
    kept, shown = read((tmp_path / "metrics.prom").read_bytes()), read(metrics.page())
    for name in OWN:
        assert any(its == f"codex_ray_{name}" for its, _ in kept)
        assert not any(its == f"codex_ray_{name}" for its, _ in shown)
    assert all(dict(has)["scope"] == COORDINATOR for n, has in kept if n[10:] in OWN)
    assert figure(kept, "epsilon_spent", unit="client", scope=COORDINATOR) == 2.0
    assert figure(shown, "epsilon_spent") == 1.0  # only what outsiders may be told
    assert not any(("scope", COORDINATOR) in has for _, has in shown)
    for series in ALL:
        assert ("outside the guarantee" in series.help) == (
            series.name[10:] in OWN or series.name == "codex_ray_epsilon_spent"
        )


def test_known_cohorts_are_public(tmp_path: Path) -> None:
    found = observed(tmp_path, [told(0)])
    assert {dict(has)["scope"] for n, has in found if n[10:] in OWN} == {"public"}


def test_the_epsilon_of_a_larger_run_is_not_spent(tmp_path: Path) -> None:
    assert tally.EXTRAPOLATED == EXTRAPOLATED
    found = observed(tmp_path, [told(0, epsilon={"client": 3.0, EXTRAPOLATED: 0.1})])
    assert figure(found, "epsilon_spent") == 3.0
    assert figure(found, "epsilon_extrapolated") == 0.1


def test_nothing_from_before_the_noise(devices: dict[str, Any], tmp_path: Path) -> None:
    codex_ray.run(devices, {"debug": True, "rounds": 2}, out=tmp_path / "run")
    lines = list(tally.lines_of(tmp_path / "run" / "rounds.jsonl"))
    metrics = Metrics(tmp_path / "metrics.prom", subject=SUBJECT, earlier=lines)
    metrics.close()
    text = (tmp_path / "metrics.prom").read_text()
    assert "signal_to_noise" in text
    assert any(len(repr(value)) >= 12 for value in lines[-1]["debug"].values())
    for name, value in lines[-1]["debug"].items():
        assert name not in text
        assert len(repr(value)) < 12 or repr(value) not in text  # a short one may be in another
    assert not re.search(r'(client|member)="\d', text)


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    whole = observed(tmp_path, [told(n) for n in range(4)])
    earlier = [told(n).to_json() for n in range(2)]
    assert observed(tmp_path, [told(2), told(3)], earlier=earlier) == whole


def test_what_the_run_lost_of_its_own_is_counted_from_its_log_in_every_life_of_it(
    tmp_path: Path,
) -> None:
    """Two lives: what the first lost, and lines that were cut or say something else, and more."""
    warn = logging.getLogger("codex_ray.cluster.roll_call").warning
    first = JsonLog(tmp_path / "log.jsonl", run="r-001")
    for event in (HOST_LOST, HOST_LOST, COORDINATOR_LOST):
        warn("lost", extra={"event": event})
    first.round(told(0))
    first.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "host_lost", "mess')
    second = JsonLog(tmp_path / "log.jsonl", run="r-001", first_round=1)
    metrics = Metrics(tmp_path / "metrics.prom", subject=SUBJECT, happened=second.happened)
    counts = [figure(read(metrics.page()), f"{it}_total") for it in LOST]
    assert counts == [2, 0, 1]
    warn('"event": "host_lost"')  # words are no event
    warn("gone", extra={"event": HOST_REPLACED})
    warn("gone", extra={"event": HOST_LOST})
    metrics.round(told(1))
    metrics.close()
    second.close()
    found = read((tmp_path / "metrics.prom").read_bytes())
    assert [figure(found, f"{it}_total") for it in LOST] == [3, 1, 1]


def test_the_file_is_replaced_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    now, file = [0.0], tmp_path / "metrics.prom"
    metrics = Metrics(file, subject=SUBJECT, clock=lambda: now[0])

    def rounds() -> float:
        return figure(read(file.read_bytes()), "rounds_total")

    metrics.round(told(0))
    assert rounds() == 0
    now[0] = 1.0
    inode = file.stat().st_ino
    metrics.round(told(1))
    assert rounds() == 2 and file.stat().st_ino != inode  # replaced whole, never rewritten in place
    metrics.round(told(2))
    assert rounds() == 2
    metrics.close()
    assert rounds() == 3
    assert [it.name for it in tmp_path.iterdir()] == ["metrics.prom"]


def test_odd_values_and_odd_names() -> None:
    series = Series("x", "gauge", "back\\slash\nand line")
    odd = 'a "b"\\\n'
    text = to_text([(series, [Sample(math.inf, {"l": odd}), Sample(math.nan, {"l": ""})])])
    assert b"# HELP x back\\\\slash\\nand line\n" in text and text.count(b"\n") == 4
    found = read(text)
    assert found[("x", frozenset({("l", odd)}))] == math.inf
    assert math.isnan(found[("x", frozenset({("l", "")}))])


def get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, bytes]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_page_is_on_loopback_and_goes_with_the_run(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.prom", subject=SUBJECT, port=0)
    assert metrics.port
    metrics.round(told(0))
    status, text = get(metrics.port)
    assert status == 200 and figure(read(text), "rounds_total") == 1
    assert get(metrics.port, "/../config.yaml")[0] == 404
    assert get(metrics.port, Host="evil.example")[0] == 403  # a name that was bound to 127.0.0.1
    assert get(metrics.port, Host=f"localhost:{metrics.port}")[0] == 200
    with pytest.raises(ConfigError, match=rf"port {metrics.port} cannot be used .*: choose"):
        Metrics(tmp_path / "other.prom", subject=SUBJECT, port=metrics.port)
    metrics.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", metrics.port), timeout=10)


def test_the_page_binds_to_loopback_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    real = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda s, a: (bound.append(a), real(s, a))[1])
    Metrics(tmp_path / "metrics.prom", subject=SUBJECT, port=0).close()
    assert bound == [("127.0.0.1", 0)]


def test_a_port_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="port 70000"):
        Metrics(tmp_path / "metrics.prom", subject=SUBJECT, port=70000)


def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads(DASHBOARD.read_text())
    expressions = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    known = {series.name for series in ALL}
    for expression in expressions:
        names = set(re.findall(r"codex_ray_\w+", expression))
        assert names and names <= known, expression
        assert expression.count("(") == expression.count(")")
        counted = re.findall(r"(rate\()?(codex_ray_\w+_total)", expression)
        assert all(name in known for _, name in counted)
        assert all(
            name.endswith("_total") for name in re.findall(r"rate\((codex_ray_\w+)", expression)
        )
    assert known == {n for e in expressions for n in re.findall(r"codex_ray_\w+", e)}
    for variable in board["templating"]["list"]:
        names = re.findall(r"codex_ray_\w+", json.dumps(variable))
        assert set(names) <= known


def test_the_dashboard_is_laid_out() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
