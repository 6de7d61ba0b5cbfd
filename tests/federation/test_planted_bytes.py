"""Bytes that are planted in a party's records occur in nothing that a server holds or writes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pooling import EXACT, NOISE, NOISED, RANGES, SHARED, experiment, write_hospitals

import codex_ray
from codex_ray import api
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from, load_yaml
from codex_ray.federation.bare_sums import BareSum, SumHost
from codex_ray.federation.transport import LocalTransport
from codex_ray.preparation import answers
from codex_ray.secagg.protocols import Clear

PLANTED = 333.21875
"""A cholesterol that one patient of the second hospital has; as a float32 it is exact."""


def hospitals(folder: Path) -> str:
    """The files, with the planted value, and the pattern that finds them."""
    files = write_hospitals(folder)
    second = folder / "h1.csv"
    lines = second.read_text().split("\n")
    age, _, angina, ill = lines[1].split(",")
    second.write_text("\n".join([lines[0], f"{age},{PLANTED},{angina},{ill}", *lines[2:]]))
    return files


def traces(scaled: np.ndarray) -> list[bytes]:
    """How it would look: as it is written, as a number, and as the feature that is trained on."""
    low, high = RANGES["chol"]
    public = 2 * (PLANTED - low) / (high - low) - 1
    kinds = (np.float32, np.float64)
    return [
        str(PLANTED).encode(),
        *(kind(number).tobytes() for number in (PLANTED, public) for kind in kinds),
        scaled.astype(np.float32).tobytes(),
    ]


def noting(came: list[bytes]) -> type[LocalTransport]:
    """A seam that keeps whatever clients send."""

    class Noting(LocalTransport):
        def exchange(self, outbox: Any) -> Any:
            found = super().exchange(outbox)
            came.extend(bytes(frame) for frame in found.values())
            return found

    return Noting


@pytest.mark.parametrize(
    ("prepare", "parts"),
    [(None, {}), (EXACT, {}), (NOISED, {"trainer": SHARED, "mechanism": NOISE})],
    ids=["plain", "pooled figures", "noise inside the sum"],
)
def test_what_is_planted_reaches_no_server(
    prepare: dict[str, Any] | None,
    parts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All frames that clients send, all that the run writes, and all that is logged."""
    caplog.set_level(logging.DEBUG)
    came: list[bytes] = []

    monkeypatch.setattr(api, "LocalTransport", noting(came))
    monkeypatch.setattr(answers, "LocalTransport", noting(came))
    files = hospitals(tmp_path / "hospitals")
    # The test set is a hospital's of its own, so that the others give up no record.
    apart = (tmp_path / "hospitals" / "h3.csv").rename(tmp_path / "hospitals" / "test.csv")
    config = experiment(files, prepare, **parts)
    config["data"] |= {"test_file": str(apart), "test_fraction": None}
    codex_ray.run(config, out=tmp_path / "run")
    written = experiment_from(load_yaml(tmp_path / "run" / "config.yaml"))
    own = assemble(written).dataset.client(1).features
    sought = traces(own[0])
    kept = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(came) > 20 and len(kept) > 5
    assert any(words in own.tobytes() for words in sought), "the search would find it"
    for words in sought:
        assert not any(words in piece for piece in [*came, *kept, caplog.text.encode()])


def test_the_search_finds_it_where_nothing_is_masked(tmp_path: Path) -> None:
    """A summand in the clear that is a record's features is found by the same search."""
    files = hospitals(tmp_path)
    rows = assemble(experiment_from(experiment(files, None))).dataset.client(1).features
    words, came, protocol = rows[0].view(np.uint32), list[bytes](), Clear()
    host = SumHost(protocol, dimension=len(words), summand_of=lambda client: words)
    BareSum(noting(came)(host), protocol, len(words)).run(3)
    assert any(traces(rows[0])[-1] in frame for frame in came)
