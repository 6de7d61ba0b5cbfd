"""What a server writes and shows: figures, the access log, its description, its page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files

import pytest
from asking import NOW, SECRET, House, served
from prometheus_client.parser import text_string_to_metric_families

from codex_ray.serving.access_log import AccessLog


def scraped(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The figures, as Prometheus' own library reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_figures_for_prometheus(house: House) -> None:
    house.changes = {"unsafe": ("insecure_http",), "labels": {"replica": "7"}}
    house.app = house.fresh()
    key = house.new_key("monitor", roles=("monitor",), scopes=("*",))
    house.app._keys.refresh()
    house.predict(body=b'{"records": [[60, 140, 1], [60, 140, 1]]}')
    house.predict(body=b"{")
    house.get("/nothing/at/all")
    said = house.get("/metrics", key=key)
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = scraped(said.body)
    by = "codex_ray_serve"
    mine = ("replica", "7")
    assert found[f"{by}_requests_total", (mine, ("route", "predict"), ("status", "200"))] == 1
    assert found[f"{by}_requests_total", (mine, ("route", "predict"), ("status", "400"))] == 1
    assert found[f"{by}_requests_total", (mine, ("route", "none"), ("status", "404"))] == 1
    assert found[f"{by}_refusals_total", (("code", "not_json"), mine)] == 1
    assert found[f"{by}_records_total", (mine,)] == 2
    assert found[f"{by}_unsafe", (mine, ("switch", "insecure_http"))] == 1
    assert found[f"{by}_model", (("model", "heart"), mine, ("version", "1"))] == 1
    assert found[f"{by}_within_total", (("le", "+Inf"), mine, ("route", "predict"))] == 2
    assert b"alice" not in said.body and b"192.0.2.7" not in said.body


def test_the_access_log_has_no_personal_data(house: House) -> None:
    house.predict()
    house.predict(body=b'{"records": [["Mr Smith", 1, 2]]}')
    house.predict(key="crk_smith", address="198.51.100.9")
    house.get("/smith?name=smith")
    text = (house.folder / "access.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines] == [200, 422, 401, 404]
    assert [line["route"] for line in lines] == ["predict", "predict", "predict", "none"]
    assert lines[0]["caller"] == house.keys.read()[0].id
    assert lines[0]["decided_by"] == "allowed by UsersAsk"
    assert lines[0]["from"] == lines[1]["from"] != lines[2]["from"]
    for secret in ("192.0.2.7", "198.51.100.9", "mith", "140", house.key.split(".")[1]):
        assert secret not in text, secret
    assert (house.folder / "access.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_address_is_another_hash_on_another_day_and_on_another_server() -> None:
    log = AccessLog(None, secret=SECRET, clock=lambda: NOW)
    day = datetime.fromtimestamp(NOW, UTC).date().isoformat()
    hidden = log.hidden("192.0.2.7", day)
    assert log.hidden("192.0.2.7", "2001-01-01") != hidden == log.hidden("192.0.2.7", day)
    assert AccessLog(None, secret=b"x" * 32, clock=lambda: NOW).hidden("192.0.2.7", day) != hidden


def test_the_description_is_behind_the_key(house: House) -> None:
    assert house.get("/openapi.json", key=None).status == 401
    found = house.get("/openapi.json").value
    assert found["openapi"] == "3.1.0"
    record = found["components"]["schemas"]["Request"]["properties"]["records"]["items"]
    assert record["oneOf"][0]["required"] == ["age", "pressure", "depth"]
    age = record["oneOf"][0]["properties"]["age"]
    assert (age["type"], age["minimum"], age["maximum"]) == ("integer", 0, 120)


def test_the_card_names_what_is_switched_off(house: House) -> None:
    house.shelf.now = replace(served("1"), unsafe=("allow_uncertified",))
    house.changes = {"unsafe": ("insecure_http",)}
    house.app = house.fresh()
    card = house.get("/v1/card").value
    assert card["unsafe"] == ["allow_uncertified", "insecure_http"]
    assert card["card"]["privacy"][0]["epsilon"] == 1.0
    assert house.get("/v1/card", key=None).status == 401


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")],
)
def test_the_page_is_for_everyone_and_says_nothing_of_the_model(
    house: House, path: str, kind: str
) -> None:
    said = house.get(path, key=None)
    assert said.status == 200
    assert said.headers["content-type"].startswith(kind)
    assert b"heart" not in said.body


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline() -> None:
    folder = files("codex_ray.serving")
    page = folder.joinpath("page.html").read_text()
    script = folder.joinpath("page.js").read_text()
    for text in (page, script, folder.joinpath("page.css").read_text()):
        assert "http:" not in text and "https:" not in text and "//cdn" not in text
    # The Content-Security-Policy forbids both; the page would silently not work.
    assert not re.search(r"\son\w+=|style=|<style|<script>", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"/page.js", "/page.css"}
    for danger in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
        assert danger not in script


def test_weights_only_for_whom_the_policy_allows(house: House) -> None:
    assert house.get("/v1/model").code == "forbidden"
