"""The certificate names by whose figures features were scaled, and its check finds another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pooling import NOISE, NOISED, OWN, SHARED, UPDATES, experiment, write_hospitals

import codex_ray
from codex_ray.certifying.verify import verify
from codex_ray.records.canonical import read_json
from codex_ray.records.certificate import Document, page_of, read_document, signing_key
from codex_ray.records.certificate_page import page
from codex_ray.records.keys import PUBLIC_NAME
from codex_ray.records.run_directory import RunDirectory, to_json_bytes

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(signing: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One for each source of figures."""
    folder = tmp_path_factory.mktemp("scaled")
    files = write_hospitals(folder / "hospitals")
    configs = {
        "pooled": experiment(files, NOISED, trainer=SHARED, mechanism=NOISE),
        "fixed": experiment(files, None, trainer=SHARED, mechanism=NOISE),
        "own": experiment(files, OWN, mechanism=UPDATES),
        "own noised": experiment(
            files, NOISED | {"scaling": "per_client"}, trainer=SHARED, mechanism=NOISE
        ),
    }
    for name, config in configs.items():
        codex_ray.run(config, out=folder / name)
    return {name: folder / name for name in configs}


@pytest.fixture
def copied_run(runs: Runs, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(runs[name], tmp_path / name))


@pytest.mark.parametrize(
    ("name", "source", "paid"),
    [
        ("pooled", "securely pooled with DP", True),
        ("fixed", "fixed public constants", False),
        ("own", "per client", False),
        ("own noised", "per client with DP", True),
    ],
)
def test_the_source_is_named_and_verified(
    name: str, source: str, paid: bool, runs: Runs, keys: Path
) -> None:
    found = verify(runs[name], trust=keys / PUBLIC_NAME)
    assert (found.status, found.differences) == (0, ())
    assert found.document is not None and found.document.certificate is not None
    part = found.document.certificate.preparation
    assert part is not None and part.source == source
    assert (len(part.spent) == 1, part.figures is not None) == (paid, paid)
    text = page_of(RunDirectory(runs[name])).read_text()
    assert f"* Features: {source}" in text
    claim = found.document.certificate.claims[0]
    if paid:
        assert part.spent[0].epsilon < claim.accounting.epsilon
        assert claim.composition.releases == 4, "one of figures, and three rounds"
        assert any("figures" in said for said in found.document.spends[0]["assumptions"])
    else:
        assert claim.composition.releases == 3
    assert read_json((runs[name] / "result.json").read_text())["preparation"] == part.model_dump(
        mode="json"
    )


def rewritten(run: Path, document: Document) -> None:
    """Puts a document into its place, signed anew by whoever ran it."""
    key, _ = signing_key()
    assert key is not None
    signed = document.model_copy(update={"signature": None}).signed_by(key)
    directory = RunDirectory(run)
    directory.privacy.write_bytes(signed.to_bytes())
    page_of(directory).write_text(page(signed))


def with_part(document: Document, **changed: Any) -> Document:
    assert document.certificate is not None and document.certificate.preparation is not None
    part = document.certificate.preparation.model_copy(update=changed)
    certificate = document.certificate.model_copy(update={"preparation": part})
    return document.model_copy(update={"certificate": certificate})


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("pooled", {"source": "fixed public constants"}),
        ("pooled", {"spent": ()}),
        ("pooled", {"figures": None}),
        ("pooled", {"figures": "0" * 64}),
        ("pooled", {"data_card": "0" * 64}),
        ("fixed", {"source": "per client"}),
        ("own", {"source": "securely pooled"}),
        ("own", {"words": "nothing to see"}),
    ],
)
def test_a_part_that_says_something_else_is_found_though_it_is_signed(
    name: str, changed: dict[str, Any], copied_run: Callable[[str], Path], keys: Path
) -> None:
    run = copied_run(name)
    rewritten(run, with_part(read_document(RunDirectory(run)), **changed))
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert any("certificate.preparation" in line for line in found.differences), found.differences


@pytest.mark.parametrize(
    ("name", "tolerated"), [("fixed", True), ("pooled", False), ("own", False)]
)
def test_only_where_nothing_was_computed_may_the_part_be_missing(
    name: str, tolerated: bool, copied_run: Callable[[str], Path], keys: Path
) -> None:
    """Certificates of an earlier version have none, and go on being verified."""
    run = copied_run(name)
    document = read_document(RunDirectory(run))
    assert document.certificate is not None
    older = document.certificate.model_copy(update={"preparation": None})
    rewritten(run, document.model_copy(update={"certificate": older}))
    result = read_json((run / "result.json").read_text())
    del result["preparation"]
    (run / "result.json").write_bytes(to_json_bytes(result))
    assert "preparation" not in read_json((run / "privacy.json").read_text())["certificate"]
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert (found.differences == ()) is tolerated, found.differences


@pytest.mark.parametrize(
    "change",
    [
        lambda prepare: prepare["statistics"]["centre"][0].__setitem__(0, 1.0),
        lambda prepare: prepare.update(statistics=None),
        lambda prepare: prepare.update(noise_multiplier=100.0),
        lambda prepare: prepare.update(bins=65, by="quartiles"),
        lambda prepare: prepare["statistics"].update(
            columns=["age"], centre=[[1.0]], spread=[[1.0]], fill=[[1.0]]
        ),
    ],
    ids=["another figure", "none", "more noise", "another norm", "fewer columns"],
)
def test_figures_changed_in_the_configuration_are_found(
    change: Callable[[dict[str, Any]], None], copied_run: Callable[[str], Path], keys: Path
) -> None:
    run = copied_run("pooled")
    data = yaml.safe_load((run / "config.yaml").read_text())
    change(data["data"]["prepare"])
    (run / "config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert found.status == 1
    said = " ".join(found.differences)
    assert any(word in said for word in ("hashes.config", "statistics", "explain ledgers"))


def test_a_result_that_names_another_source_is_found(
    copied_run: Callable[[str], Path], keys: Path
) -> None:
    run = copied_run("pooled")
    result = read_json((run / "result.json").read_text())
    result["preparation"]["source"] = "fixed public constants"
    (run / "result.json").write_bytes(to_json_bytes(result))
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert found.differences == ("result.json: its preparation is not that of privacy.json",)
