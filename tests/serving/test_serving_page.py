"""The page in a real browser: a person gives a key, reads the card, and gets a prediction."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import House, served

from codex_ray.cluster.certificates import issue, make_authority
from codex_ray.serving.local import Listening, make_server

pytest.importorskip("uvicorn")
aiohttp = pytest.importorskip("aiohttp")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOT = os.environ.get("CODEX_RAY_SCREENSHOT")
"""Where the picture for the documentation is written, if anywhere."""
MARKED = f"{'timing' if SHOT else '<b>timing</b>'}: how long a round takes"
"""What a card may say, which is text and nothing else; the picture goes without the mischief."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]


@contextmanager
def browser(folder: Path) -> Iterator[int]:
    """The port of a headless browser that takes our test certificate."""
    process = subprocess.Popen(
        [
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"),
            *("--ignore-certificate-errors", "--window-size=820,1100", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ends, file = time.monotonic() + 90, folder / "DevToolsActivePort"
        while not (file.exists() and file.read_text().count("\n")):
            assert time.monotonic() < ends, "the browser does not start"
            time.sleep(0.2)
        yield int(file.read_text().splitlines()[0])
    finally:
        process.kill()
        process.wait()


class Page:
    """A tab, by the browser's own protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            said = await self._socket.receive_json(timeout=60)
            if said.get("id") == self._number:
                assert "error" not in said, said
                return dict(said["result"])
            self.events.append(said)

    async def run(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        ends = time.monotonic() + 60
        while not (found := await self.run(script)):
            assert time.monotonic() < ends, script
            await asyncio.sleep(0.1)
        return found


@pytest.fixture
def served_at(tmp_path: Path) -> Iterator[tuple[House, int]]:
    files = issue(make_authority(tmp_path / "ca"), tmp_path / "node", names=["localhost"])
    house = House(tmp_path, changes={"unsafe": ("allow_uncertified",)})
    gaps = {"no_epsilon_covers": ["search: other runs", MARKED]}
    house.shelf.now = served("1", card={**served("1").card, **gaps})
    server = make_server(house.app, Listening("127.0.0.1", 0, files.certificate, files.key))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield house, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


def test_a_person_tries_a_prediction(served_at: tuple[House, int], tmp_path: Path) -> None:
    house, port = served_at

    async def visit(debugging: int) -> Page:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{debugging}/json") as listed:
                tab = next(it for it in await listed.json() if it["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=f"https://localhost:{port}/")
                await page.until(
                    "document.querySelector('#key') && document.readyState=='complete'"
                )
                await use(page, house.key)
                return page

    async def use(page: Page, key: str) -> None:
        give = (
            "document.querySelector('#key').value={};document.querySelector('#open button').click()"
        )
        await page.run(give.format("'wrong'"))
        said = await page.until("document.querySelector('#said').textContent")
        assert said == "This key is not believed, or it has expired."
        await page.run(give.format(json.dumps(key)))
        await page.until("!document.querySelector('#trial').hidden")
        text = await page.run("document.querySelector('#card').innerText")
        assert "epsilon" in text and "Switched off: allow_uncertified" in text
        assert text.count("no epsilon covers") == 1 and "search: other runs" in text
        assert MARKED in text
        for number, value in enumerate((60, 140, 1.5)):
            await page.run(f"document.querySelector('#field-{number}').value={value}")
        await page.run("document.querySelector('#ask button').click()")
        answer = await page.until("document.querySelector('#answer').innerText")
        assert "Most likely: ill" in answer and "0.9569" in answer
        picture = await page.call("Page.captureScreenshot", format="png")
        if SHOT:
            Path(SHOT).write_bytes(base64.b64decode(picture["data"]))
        # What goes wrong is said in words, and the values are looked at by the server too.
        await page.run("document.querySelector('#ask').noValidate = true")
        await page.run("document.querySelector('#field-0').value=999")
        await page.run("document.querySelector('#ask button').click()")
        said = await page.until("document.querySelector('#said').textContent")
        assert "age is out of range" in said
        assert await page.run("localStorage.length + sessionStorage.length") == 0
        assert await page.run("document.cookie") == ""
        # An injected script does not run: the policy forbids it.
        await page.run(
            "(()=>{const s=document.createElement('script');s.textContent='window.bad=1';"
            "document.body.append(s)})()"
        )
        assert not await page.run("window.bad === 1")

    with browser(tmp_path / "profile") as debugging:
        page = asyncio.run(visit(debugging))
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(f"https://localhost:{port}/") for url in asked), asked
    thrown = [event for event in page.events if event["method"] == "Runtime.exceptionThrown"]
    assert not thrown
