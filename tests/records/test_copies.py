"""A run goes on from its copies elsewhere, to the bit; and they are never taken for more."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest

import codex_ray
from codex_ray.errors import InputError, RunDirectoryError
from codex_ray.federation.state import RoundResult, ServerState
from codex_ray.records import copies as copies_file
from codex_ray.records.checkpoint import Checkpoints, to_bytes
from codex_ray.records.copied import Head, held_at, newest
from codex_ray.records.copies import Copies
from codex_ray.records.elsewhere import Elsewhere, elsewhere
from codex_ray.records.run_directory import RunDirectory

PLACE = "cluster.checkpoints"


@pytest.fixture
def tiny(silos: dict[str, Any]) -> dict[str, Any]:
    federation = silos["federation"] | {"protocol": {"kind": "ideal"}}
    return silos | {"federation": federation, "rounds": 3, "name": "tiny"}


@pytest.fixture(params=["path", "file://", "memory://", "arrow"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Elsewhere:
    """The same folder of files, reached in each of the ways there are."""
    if request.param == "path":
        return elsewhere(str(tmp_path / "elsewhere" / "deep"))
    if request.param == "file://":
        return elsewhere(f"file://{tmp_path}/elsewhere")
    if request.param == "memory://":
        return elsewhere(f"memory://{tmp_path}")
    from pyarrow.fs import LocalFileSystem

    from codex_ray.records.elsewhere import _Arrow

    return _Arrow(LocalFileSystem(), str(tmp_path / "elsewhere"), "arrow://")


class Interrupted(Exception):  # noqa: N818  # the test's own Ctrl-C
    pass


def cut_after(config: dict[str, Any], rounds: int, *, out: Path) -> Path:
    def watch(result: RoundResult | None) -> None:
        if result is not None and result.round + 1 == rounds:
            raise Interrupted

    with pytest.raises(Interrupted):
        codex_ray.run(config, out=out, watch=watch)
    return out


def test_a_folder_elsewhere_is_a_folder(place: Elsewhere) -> None:
    assert place.names() == [] and place.read("a") is None and place.size("a") == -1
    assert place.create("b", b"first") and not place.create("b", b"second")
    assert place.read("b") == b"first"
    place.put("a", b"1")
    place.put("a", b"22")
    assert (place.names(), place.read("a"), place.size("a")) == (["a", "b"], b"22", 2)
    place.delete("a")
    place.delete("a")
    assert place.names() == ["b"]


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_a_run_goes_on_where_its_disk_is_gone(tiny, scheme, tmp_path) -> None:
    whole = codex_ray.run(tiny, out=tmp_path / "whole")
    url = f"{scheme}{tmp_path}/copies"
    path = cut_after(tiny | {"cluster": {"checkpoints": url}}, 2, out=tmp_path / "cut")
    shutil.rmtree(path)
    resumed = codex_ray.run(resume=url, out=tmp_path / "other")
    assert resumed.model_sha256 == whole.model_sha256 and resumed.privacy == whole.privacy
    certificate = json.loads((tmp_path / "other" / "privacy.json").read_text())["certificate"]
    assert certificate is not None
    rounds = [json.loads(it) for it in (tmp_path / "other" / "rounds.jsonl").open()]
    assert [it["round"] for it in rounds] == [0, 1, 2]
    assert held_at(elsewhere(url)) == (3, 0)  # the last one is there when the run has ended
    assert len([it for it in elsewhere(url).names() if it.startswith("copy-")]) == 2


def test_a_directory_whose_checkpoints_are_gone_goes_on(tiny, tmp_path) -> None:
    whole = codex_ray.run(tiny, out=tmp_path / "whole")
    url = str(tmp_path / "copies")
    path = cut_after(tiny | {"cluster": {"checkpoints": url}}, 2, out=tmp_path / "cut")
    shutil.rmtree(path / "checkpoint")
    assert codex_ray.run(resume=path).model_sha256 == whole.model_sha256


def test_another_machine_goes_on(tiny, tmp_path) -> None:
    """The first one is a process that was killed; what it left is elsewhere only."""
    whole = codex_ray.run(tiny, out=tmp_path / "whole")
    url, out = f"file://{tmp_path}/copies", tmp_path / "lost"
    config = json.dumps(tiny | {"cluster": {"checkpoints": url}})
    code = (
        "import json, os, codex_ray, codex_ray.records.copies as copies\n"
        "from codex_ray.records.copied import held_at\n"
        "from codex_ray.records.elsewhere import elsewhere\n"
        "def watch(result):\n"
        "    if result is not None and result.round == 1:\n"
        f"        while (held_at(elsewhere({url!r})) or (0,))[0] < 2: pass\n"
        "        os.kill(os.getpid(), 9)\n"
        "copies.Copies.__init__.__kwdefaults__['every'] = 0\n"
        f"codex_ray.run(json.loads({config!r}), out={str(out)!r}, watch=watch)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, timeout=100)
    assert done.returncode == -9, done.stderr
    shutil.rmtree(out)
    assert codex_ray.run(resume=url, out=tmp_path / "new").model_sha256 == whole.model_sha256


@pytest.mark.parametrize("seed", [1, None])
def test_a_place_is_one_runs(tiny, seed, tmp_path) -> None:
    url = str(tmp_path / "copies")
    config = tiny | {"seed": seed, "rounds": 1, "cluster": {"checkpoints": url}}
    codex_ray.run(config, out=tmp_path / "first")
    held = {it.name: it.read_bytes() for it in Path(url).iterdir()}
    with pytest.raises(RunDirectoryError, match="copies: holds another run: choose another"):
        codex_ray.run(config, out=tmp_path / "second")
    assert not (tmp_path / "second").exists(), "it can be begun elsewhere under the same name"
    third = cut_after(tiny | {"seed": seed}, 1, out=tmp_path / "third")
    with pytest.raises(RunDirectoryError, match="holds another run"):
        codex_ray.run(None, {PLACE: url}, resume=third)
    assert {it.name: it.read_bytes() for it in Path(url).iterdir()} == held


def state_of(path: Path) -> ServerState:
    return Checkpoints(path / "checkpoint").load()


def copies_of(path: Path, place: Elsewhere, *, replayable: bool = False, **how: Any) -> Copies:
    home = Checkpoints(path / "checkpoint").home()
    how = {"every": 0.0, "pause": lambda _: None} | how
    return Copies(place, RunDirectory(path), home=home, replayable=replayable, **how)


class Faulty:
    """A folder elsewhere on which something goes wrong."""

    def __init__(self, path: Path) -> None:
        self._place = elsewhere(str(path))
        self.url = "faulty://"
        self.failing: dict[str, list[str]] = {"put": []}
        self.puts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.unlisted: set[str] = set()

    def put(self, name: str, content: bytes) -> None:
        self.gate.wait(10)
        self.puts.append(name)
        how = self.failing["put"].pop(0) if self.failing["put"] else ""
        if how == "time-out":
            raise RunDirectoryError(f"{self.url}/{name}: cannot be written: timed out")
        self._place.put(name, content[: len(content) // 2] if how == "half" else content)

    def names(self) -> list[str]:
        return [name for name in self._place.names() if name not in self.unlisted]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)


@pytest.fixture
def cut(tiny, tmp_path) -> Path:
    return cut_after(tiny | {"seed": None}, 1, out=tmp_path / "cut")


@pytest.fixture
def cut_masked(silos, monkeypatch, tmp_path) -> Path:
    """A run whose process is gone before its first sum could be opened."""
    from codex_ray.federation.transport import LocalTransport

    def gone(*_: object) -> None:
        raise Interrupted

    federation = {"protocol": {"kind": "secagg_plus"}, "dropouts": {}}
    config = silos | {"seed": None, "federation": federation}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LocalTransport, "exchange", gone)
        codex_ray.run(config, out=tmp_path / "cut")
    return tmp_path / "cut"


@pytest.mark.parametrize("how", ["half", "time-out"])
def test_without_a_seed_it_is_there_when_it_is_said_to_be(cut, how, tmp_path) -> None:
    place, state = Faulty(tmp_path / "there"), state_of(cut)
    copies = copies_of(cut, place)
    copies.begin()
    content = to_bytes(state, home=Checkpoints(cut / "checkpoint").home())
    place.failing["put"] = [how, how]  # and the third time it goes well
    copies.offer(state, content)
    assert newest(place).checkpoint == content
    place.failing["put"] = [how] * 9
    state.round += 1
    with pytest.raises(RunDirectoryError, match="nothing goes on before its copy is there"):
        copies.offer(state, content)
    place.failing["put"] = []
    assert newest(place).round == state.round - 1, "what was there is there"


def test_a_listing_that_lags_hides_nothing(cut, tmp_path) -> None:
    place, state = Faulty(tmp_path / "there"), state_of(cut)
    copies = copies_of(cut, place)
    copies.begin()
    for state.round in (1, 2, 3):
        copies.offer(state, to_bytes(state))
    place.unlisted = set(place.names())
    assert newest(place).round == 3


def test_with_a_seed_nobody_waits(tiny, tmp_path, caplog) -> None:
    path = cut_after(tiny, 1, out=tmp_path / "cut")
    place, state = Faulty(tmp_path / "there"), state_of(path)
    copies = copies_of(path, place, replayable=True)
    copies.begin()
    place.gate.clear()  # whoever writes there hangs
    for state.round in range(1, 200):
        copies.offer(state, to_bytes(state))
    place.failing["put"] = ["time-out"]
    place.gate.set()
    copies.close()
    # 199 were offered; those that nobody waited for were left out, and the last one is there.
    assert newest(place).round == 199 and len(place.puts) < 20
    assert sum("its copies are behind" in it.getMessage() for it in caplog.records) == 1


@pytest.mark.parametrize("replayable", [True, False])
@pytest.mark.parametrize("unread", ["config.yaml", "rounds.jsonl"])
def test_a_file_that_cannot_be_read_for_once_is_copied_later(
    cut, unread, replayable, tmp_path, caplog, monkeypatch
) -> None:
    """An error of the disk here is one of the copy, not the end of the thread that copies."""
    place, state = Faulty(tmp_path / "there"), state_of(cut)
    copies = copies_of(cut, place, replayable=replayable)
    copies.begin()
    failing, failed, read = [True], threading.Event(), io.open

    def stale(file: Any, *args: Any, **more: Any) -> Any:
        if Path(str(file)).name == unread and failing.pop() if failing else False:
            failed.set()
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(file, *args, **more)

    monkeypatch.setattr(io, "open", stale)
    state.round = 2
    copies.offer(state, to_bytes(state))
    assert failed.wait(10)
    copies.close()
    assert newest(place).round == 2 and newest(place).lines
    said = "cannot be read: Stale file handle: the run goes on, but its copies are behind"
    assert (said in caplog.text) == replayable, "the other waited, and tried again"


def test_a_place_that_never_answers_ends_no_run(tiny, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(copies_file, "PATIENCE", 0.05)
    path = cut_after(tiny, 1, out=tmp_path / "cut")
    place, state = Faulty(tmp_path / "there"), state_of(path)
    copies = copies_of(path, place, replayable=True)
    copies.begin()
    place.gate.clear()
    copies.offer(state, to_bytes(state))
    copies.close()
    place.gate.set()
    assert "the last copy may be missing" in caplog.text


@pytest.mark.parametrize("replayable", [True, False])
def test_whoever_was_overtaken_stops(cut, replayable, tmp_path) -> None:
    place, state = Faulty(tmp_path / "there"), state_of(cut)
    first = copies_of(cut, place, replayable=replayable)
    first.begin()
    second = copies_of(cut, place, replayable=replayable)
    second.go_on(state)
    before = {name: place.read(name) for name in place.names()}
    with pytest.raises(RunDirectoryError, match="goes on with this run now: this process stops"):
        for _ in range(1000):
            first.offer(state, to_bytes(state))
            time.sleep(0.005)  # for the thread that copies at its side
    assert {name: place.read(name) for name in place.names()} == before
    second.offer(state, to_bytes(state))
    second.close()
    assert newest(place).round == state.round


def test_an_older_directory_does_not_write_over_newer_copies(cut, tmp_path) -> None:
    place, state = elsewhere(str(tmp_path / "there")), state_of(cut)
    copies = copies_of(cut, place)
    copies.begin()
    state.round += 5
    copies.offer(state, to_bytes(state))
    with pytest.raises(RunDirectoryError, match="another process went on from there"):
        copies_of(cut, place).go_on(state_of(cut))


@pytest.mark.parametrize("replayable", [True, False])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_harmed_copy_is_never_used(cut, replayable, how, tmp_path) -> None:
    place, state = elsewhere(str(tmp_path / "there")), state_of(cut)
    copies = copies_of(cut, place, replayable=replayable)
    copies.begin()
    for state.round in (4, 5):
        copies._copy(state, to_bytes(state))
    name = Head.read(place).copies[0].name
    place.delete(name) if how == "gone" else place.put(name, place.read(name)[:-1])
    if replayable:
        copy = newest(place)
        assert copy.round == 4 and len(copy.said) == 1 and name in copy.said[0]
    else:
        with pytest.raises(RunDirectoryError, match=f"{name}.*does not know what was released"):
            newest(place)
    place.put("run.json", b"cut off")
    if replayable:  # a listing is all there is left to go by
        assert newest(place).round == 4
    else:
        with pytest.raises(RunDirectoryError, match=r"run\.json: is harmed"):
            newest(place)


def test_lines_of_many_rounds_get_files_of_their_own(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(copies_file, "SEGMENT", 2)
    url = str(tmp_path / "copies")
    config = tiny | {"seed": None, "rounds": 8, "cluster": {"checkpoints": url}}
    path = cut_after(config, 7, out=tmp_path / "cut")
    copy = newest(elsewhere(url))
    assert (
        copy.round == 7
        and copy.lines == b"".join((path / "rounds.jsonl").open("rb"))[: len(copy.lines)]
    )
    assert [json.loads(it)["round"] for it in copy.lines.splitlines()] == list(range(6))
    assert sum(name.startswith("rounds-") for name in elsewhere(url).names()) == 3
    shutil.rmtree(path)
    resumed = codex_ray.run(resume=url, out=tmp_path / "new")
    assert resumed.rounds == 8
    assert json.loads((tmp_path / "new" / "privacy.json").read_text())["certificate"] is not None
    named = {it.name for copy in Head.read(elsewhere(url)).copies for it in (copy, *copy.earlier)}
    assert set(elsewhere(url).names()) == named | {"run.json"}, "nothing is left over"


def test_what_is_reserved_is_there_before_anybody_is_asked(tiny, tmp_path, monkeypatch) -> None:
    from codex_ray.federation.transport import LocalTransport

    url, seen = str(tmp_path / "copies"), []
    ordinary = LocalTransport.exchange

    def looking(self, outbox):
        seen.append(held_at(elsewhere(url)))
        return ordinary(self, outbox)

    monkeypatch.setattr(LocalTransport, "exchange", looking)
    told = []
    codex_ray.run(
        tiny | {"seed": None, "rounds": 2, "cluster": {"checkpoints": url}},
        out=tmp_path / "run",
        watch=lambda it: told.append(it and held_at(elsewhere(url))),
    )
    assert seen == [(0, 3), (1, 3)]  # one cohort, whose sum is known from there on
    assert told == [None, (1, 0), (2, 0)]  # and the result before it is told of


def test_what_is_opened_is_there_as_opened_before_it_is(cut_masked, tmp_path) -> None:
    """In a file of its own: until `run.json` names that one, the one before it is whole."""
    place, state = elsewhere(str(tmp_path / "there")), state_of(cut_masked)
    copies = copies_of(cut_masked, place)
    copies.begin()
    assert (state.order, state.totals.opened) == ((0, 2), False)
    copies.offer(state, to_bytes(state, home=Checkpoints(cut_masked / "checkpoint").home()))
    named = Head.read(place).copies[0].name
    state.totals.opened = True
    opened = to_bytes(state, home=Checkpoints(cut_masked / "checkpoint").home())
    copies.offer(state, opened)
    assert [it.order for it in Head.read(place).copies] == [(0, 3), (0, 2)]
    assert Head.read(place).copies[1].name == named and newest(place).checkpoint == opened
    # Whoever has only what was before is behind, and takes it from there.
    result = codex_ray.run(None, {PLACE: place.url}, resume=cut_masked)
    lines = [json.loads(it) for it in (cut_masked / "rounds.jsonl").open()]
    assert [it["aborted"] is not None for it in lines] == [True, False, False]
    assert {spend["releases"] for spend in result.privacy} == {3}


@pytest.mark.parametrize(
    "url",
    ["s3://KEY:SECRET@bucket/x", "s3://bucket/x?secret_key=SECRET", "sftp://me:SECRET@host/x"],
)
def test_secrets_are_written_down_nowhere(tiny, url, tmp_path) -> None:
    with pytest.raises(InputError, match="by the environment") as caught:
        codex_ray.run(tiny | {"cluster": {"checkpoints": url}}, out=tmp_path / "run")
    assert "SECRET" not in str(caught.value) and not (tmp_path / "run").exists()
    assert urlsplit(url).scheme in str(caught.value)


def test_a_place_that_nobody_knows(tmp_path) -> None:
    with pytest.raises(RunDirectoryError, match="gopher://hole: cannot be reached"):
        elsewhere("gopher://hole")
    with pytest.raises(RunDirectoryError, match="neither an address nor a whole path"):
        elsewhere("copies/here")
    assert "memory" in fsspec.available_protocols()
