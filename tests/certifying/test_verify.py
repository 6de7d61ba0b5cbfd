"""A certificate is worth what its check is worth: each of hundreds of changes has to be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codex_ray.certifying.issue import Evidence, document_of, read_lines, sha256_of
from codex_ray.certifying.replay import charges_of, rebuilt
from codex_ray.certifying.terms import Terms
from codex_ray.certifying.verify import verify
from codex_ray.cli import main
from codex_ray.config import experiment_from, load_yaml
from codex_ray.errors import InputError
from codex_ray.privacy.ledger import Ledger
from codex_ray.records.certificate import read_document
from codex_ray.records.certificate_page import page
from codex_ray.records.keys import PUBLIC_NAME, make_keys
from codex_ray.records.run_directory import RunDirectory, to_json_bytes

Change = Callable[[Path], None]


def copy_of(run: Path, to: Path) -> Path:
    """A copy of the files that a certificate is about."""
    to.mkdir(parents=True)
    for file in run.iterdir():
        if file.is_file() and not file.name.startswith("report"):
            shutil.copy(file, to / file.name)
    return to


@pytest.mark.parametrize("name", ["records", "hidden", "inside"])
def test_an_honest_run_is_verified_with_its_key_and_with_no_other(name, originals, keys, tmp_path):
    run = originals(name)
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert (found.status, found.differences) == (0, ())
    assert verify(run).status == 2, "without a pinned key nothing is verified"
    _, strange = make_keys(tmp_path / "strange")
    other = verify(run, trust=strange)
    assert other.status == 1 and len(other.differences) == 1 and "signature" in other.differences[0]


def rewrite_lines(change: Callable[[list[Any]], None]) -> Change:
    def apply(run: Path) -> None:
        lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        change(lines)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "rounds.jsonl").write_text(text)

    return apply


def in_line(number: int, *path: Any, to: Callable[[Any], Any]) -> Change:
    def change(lines: list[Any]) -> None:
        inner = lines[number]
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to(inner[path[-1]])

    return rewrite_lines(change)


def more(value: Any) -> Any:
    return 1 if value is None else value + 1


def journal_changes() -> Iterator[tuple[str, Change]]:
    for n in range(3):
        for field in ("survivors", "cohort", "attempts", "round", "masks_recovered"):
            yield f"rounds {n} {field} + 1", in_line(n, field, to=more)
        for field in ("survivors", "cohort"):
            yield f"rounds {n} {field} - 1", in_line(n, field, to=lambda v: v - 1)
        for field in ("survivors", "clients"):
            yield f"rounds {n} charged {field}", in_line(n, "charged", -1, field, to=more)
        yield f"rounds {n} aborted", in_line(n, "aborted", to=lambda _: "too few clients")
        yield f"rounds {n} bytes", in_line(n, "bytes_up", "total", to=more)
        yield (
            f"rounds {n} epsilon",
            in_line(n, "epsilon", to=lambda v: {k: x / 2 for k, x in v.items()}),
        )
        yield f"rounds {n} metrics", in_line(n, "metrics", "accuracy", to=lambda v: v + 0.01)
        yield f"rounds {n} paid twice", in_line(n, "charged", to=lambda v: v + v)
        yield f"rounds {n} not paid", in_line(n, "charged", to=lambda v: [])
        yield f"rounds {n} extra", rewrite_lines(lambda lines, n=n: lines[n].update(note="honest"))
        yield f"rounds {n} removed", rewrite_lines(lambda lines, n=n: lines.pop(n))
        yield f"rounds {n} doubled", rewrite_lines(lambda lines, n=n: lines.insert(n, lines[n]))
    for one, other in ((0, 1), (1, 2), (0, 2)):

        def swap(lines: list[Any], one: int = one, other: int = other) -> None:
            lines[one], lines[other] = lines[other], lines[one]

        yield f"rounds {one} and {other} swapped", rewrite_lines(swap)
    yield "rounds reversed", rewrite_lines(lambda lines: lines.reverse())
    yield "rounds cleared", rewrite_lines(lambda lines: lines.clear())


def config_change(key: str, value: Any) -> Change:
    def apply(run: Path) -> None:
        data = yaml.safe_load((run / "config.yaml").read_text())
        inner = data
        *path, last = key.split(".")
        for part in path:
            inner = inner[part]
        assert inner[last] != value
        inner[last] = value
        (run / "config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))

    return apply


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield path


def another(value: Any) -> Any:
    """Something of the same kind that is not `value`."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.99 if value else 0.5
        case str():
            return value[:-1] + ("b" if value.endswith("a") else "a") if value else "a"
    return 1.5


def leaf_change(path: tuple[Any, ...]) -> Change:
    def apply(run: Path) -> None:
        data = json.loads((run / "privacy.json").read_text())
        inner = data
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = another(inner[path[-1]])
        (run / "privacy.json").write_bytes(to_json_bytes(data))

    return apply


def flip(file: str, share: float) -> Change:
    def apply(run: Path) -> None:
        content = bytearray((run / file).read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        (run / file).write_bytes(bytes(content))

    return apply


def file_changes() -> Iterator[tuple[str, Change]]:
    for share in (0.0, 0.5, 0.9, 1.0):
        yield f"model byte {share}", flip("model.safetensors", share)
        yield f"page byte {share}", flip("privacy.md", share)
        yield f"config byte {share}", flip("config.yaml", share)
        yield f"privacy byte {share}", flip("privacy.json", share)
    for file in ("model.safetensors", "privacy.md", "privacy.json", "rounds.jsonl", "result.json"):
        yield f"{file} removed", lambda run, file=file: (run / file).unlink()
        yield (
            f"{file} cut",
            lambda run, file=file: (run / file).write_bytes((run / file).read_bytes()[:-40]),
        )
    yield "rounds torn", lambda run: (run / "rounds.jsonl").write_text('{"round": 0')
    yield "rounds nested", lambda run: (run / "rounds.jsonl").write_text("[" * 100_000)
    yield (
        "one layout",
        lambda run: (run / "privacy.json").write_text(
            json.dumps(json.loads((run / "privacy.json").read_text()))
        ),
    )
    yield (
        "result epsilon",
        lambda run: (run / "result.json").write_text(
            (run / "result.json").read_text().replace('"epsilon": ', '"epsilon": 0')
        ),
    )


CONFIG_CHANGES = {
    "records": [
        ("trainer.noise_multiplier", 1.01), ("trainer.clip_norm", 0.99),
        ("trainer.batches.sampling_rate", 0.49), ("trainer.batches.steps", 2),
        ("trainer.batch_size", 14.0), ("budget.delta", 2e-5), ("budget.epsilon", 49.0),
        ("rounds", 4), ("rounds", 2), ("seed", 3), ("seed", None), ("data.clients", 7),
        ("federation.protocol.kind", "clear"), ("federation.dropouts.after_shares", 0.3),
        ("federation.mechanism.bound", 9.0), ("trainer.batches.kind", "shuffled"),
        ("trainer.noise_multiplier", "auto"), ("trainer.noise_multiplier", -1.0),
        ("model.outputs", 2), ("name", "another"), ("question", "None?"), ("debug", True),
    ],
    "hidden": [
        ("federation.mechanism.noise_multiplier", 1.01), ("federation.mechanism.clip_norm", 0.6),
        ("federation.sampler.rate", 0.51), ("federation.sampler.rate", 1.0),
        ("federation.sampler", {"kind": "all"}),
        ("federation.sampler", {"kind": "fixed", "size": 20}),
        ("federation.mechanism", {"kind": "none"}), ("seed", 5), ("budget.delta", 1e-6),
        ("data.clients", 41), ("federation.mechanism.encoding.bits", 24),
    ],
    "inside": [
        ("federation.mechanism.noise_multiplier", 1.01),
        ("federation.mechanism.assumed_dropout", 0.2), ("federation.mechanism.clip_norm", 0.6),
        ("federation.mechanism.kind", "discrete_gaussian"),
        ("federation.mechanism.assumed_corrupt", 0.1),
    ],
}  # fmt: skip


def leaf_changes(run: Path) -> Iterator[tuple[str, Change]]:
    """Every fifth leaf of the document but the words that repeat in each spend."""
    data = json.loads((run / "privacy.json").read_text())
    for path in [p for p in leaves(data) if "assumptions" not in p][::5]:
        yield "privacy.json " + ".".join(map(str, path)), leaf_change(path)


NOT_RECOMPUTED = ("certificate.code", "signature", "format")
"""What only the signature vouches for: which code computed the run."""


def changes(name: str, run: Path) -> Iterator[tuple[str, Change]]:
    for key, value in CONFIG_CHANGES[name]:
        yield f"config {key} = {value}", config_change(key, value)
    if name == "inside":
        return
    yield from journal_changes()
    if name == "records":
        yield from file_changes()
        yield from leaf_changes(run)


@pytest.mark.parametrize("name", ["records", "hidden", "inside"])
def test_every_change_is_found_by_the_signature_or_by_computing_again(
    name, originals, keys, tmp_path
) -> None:
    """And all but a few by computing again alone, so that whoever has no key can name them."""
    run, missed, unnamed, count = originals(name), [], [], 0
    for what, change in changes(name, run):
        copy = copy_of(run, tmp_path / "copy")
        change(copy)
        found = verify(copy, trust=keys / PUBLIC_NAME)
        shutil.rmtree(copy)
        count += 1
        if found.status != 1:
            missed.append(what)
        named = [line for line in found.differences if "the signature is not one of" not in line]
        if not named and not any(part in what for part in NOT_RECOMPUTED):
            unnamed.append(what)
    assert missed == [], f"{len(missed)} of {count} changes were not found"
    assert unnamed == []
    assert count >= {"records": 100, "hidden": 60, "inside": 5}[name]


def write_pages(run: Path, document: Any) -> None:
    """Writes a document with all that follows from it, as somebody who knows how would."""
    (run / "privacy.json").write_bytes(document.to_bytes())
    (run / "privacy.md").write_text(page(document))
    result = json.loads((run / "result.json").read_text())
    result["privacy"] = [dict(spend) for spend in document.spends]
    (run / "result.json").write_bytes(to_json_bytes(result))


def forged(run: Path) -> Any:
    """The document that the files make as they are now, with ledgers to match."""
    directory = RunDirectory.open(run)
    public = read_document(directory).certificate.public
    experiment = experiment_from(load_yaml(directory.config))
    terms = Terms(experiment, public.population, public.dimension)
    lines = read_lines(directory)
    ledgers = rebuilt(terms, charges_of(lines, []))
    assert all(isinstance(ledger, Ledger) for ledger in ledgers)
    evidence = Evidence(
        lines=lines,
        ledgers=ledgers,
        unsettled=[],
        config=sha256_of(directory.config),
        model=sha256_of(directory.model),
    )
    return document_of(terms, evidence)


def drop_a_survivor(lines: list[Any]) -> None:
    """One client less in the first sum, everywhere in its line: a round that could have been."""
    line = next(line for line in lines if line["survivors"])
    paid = line["charged"][-1]
    line["survivors"] -= 1
    line["dropped"]["masked_input"] = line["dropped"].get("masked_input", 0) + 1
    paid["survivors"], paid["clients"] = line["survivors"], line["survivors"]
    paid["members"].pop()


@pytest.mark.parametrize("name", ["records", "inside"])
def test_a_consistent_lie_about_survivors_is_found_in_the_ledger(name, copied) -> None:
    """The line is possible and its hash is made to fit: only the rebuilt events tell."""
    run = copied(name)
    rewrite_lines(drop_a_survivor)(run)
    document = read_document(RunDirectory.open(run))
    hashes = forged(run).certificate.hashes
    hashes = hashes.model_copy(update={"ledgers": document.certificate.hashes.ledgers})
    certificate = document.certificate.model_copy(update={"hashes": hashes})
    write_pages(run, document.model_copy(update={"certificate": certificate}))
    found = verify(run)
    assert found.status == 1
    assert any(line.startswith("ledgers.0") and "has paid" in line for line in found.differences)


@pytest.mark.parametrize("name", ["records", "inside"])
def test_a_lie_that_is_consistent_throughout_fails_at_the_signature_alone(
    name, copied, keys, tmp_path
) -> None:
    """Whoever re-signs with another key gets past an unpinned check, which therefore exits 2."""
    run = copied(name)
    rewrite_lines(drop_a_survivor)(run)
    attacker, public = make_keys(tmp_path / "attacker")
    write_pages(run, forged(run).signed_by(attacker))
    assert verify(run).differences == () and verify(run).status == 2
    assert verify(run, trust=public).status == 0
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert found.status == 1
    assert [line for line in found.differences if "the signature is not one of" not in line] == []
    named = read_document(RunDirectory.open(run))
    lying = named.signature.model_copy(update={"key": "SHA256:" + "A" * 43})
    write_pages(run, named.model_copy(update={"signature": lying}))
    assert verify(run, trust=keys / PUBLIC_NAME).status == 1
    assert any("signed it" in line for line in verify(run, trust=public).differences)


def test_a_signature_is_not_moved_to_another_run(originals, copied, keys) -> None:
    run = copied("inside")
    theirs = read_document(RunDirectory.open(originals("records"))).signature
    document = read_document(RunDirectory.open(run)).model_copy(update={"signature": theirs})
    write_pages(run, document)
    assert verify(run, trust=keys / PUBLIC_NAME).status == 1


def test_a_stripped_signature_is_no_certificate_for_whoever_brings_a_key(copied, keys) -> None:
    run = copied("records")
    bare = read_document(RunDirectory.open(run)).model_copy(update={"signature": None})
    write_pages(run, bare)
    assert verify(run).status == 2
    found = verify(run, trust=keys / PUBLIC_NAME)
    assert found.status == 1 and "is not signed" in found.differences[0]


def test_the_key_may_not_come_with_the_run(copied, keys) -> None:
    run = copied("records")
    shutil.copy(keys / PUBLIC_NAME, run / "key.pem")
    with pytest.raises(InputError, match="comes with the run that it is to check"):
        verify(run, trust=run / "key.pem")
    (run.parent / "link.pem").symlink_to(run / "key.pem")
    with pytest.raises(InputError, match="comes with the run"):
        verify(run, trust=run.parent / "link.pem")


def test_what_is_hidden_is_bounded_by_the_rounds(copied) -> None:
    """Of records under hidden cohorts only the most that anyone has paid is published."""
    run = copied("hidden")
    data = json.loads((run / "privacy.json").read_text())
    (event, count), *_ = data["ledgers"][0]["paid"][0][1]
    assert 0 < count <= 3
    for wrong in (0, 4):
        data["ledgers"][0]["paid"][0][1][0] = [event, wrong]
        (run / "privacy.json").write_bytes(to_json_bytes(data))
        differences = "\n".join(verify(run).differences)
        assert f"was paid {wrong} times, and the rounds allow" in differences


def test_checking_runs_nothing_that_the_configuration_names(copied, tmp_path) -> None:
    run = copied("records")
    (tmp_path / "evil.py").write_text("raise SystemExit('was imported')")
    for key in ("model", "data"):
        config_change(key, {"kind": "python", "factory": "evil:build"})(run)
    assert verify(run).status == 1
    config_change("trainer.noise_multiplier", "auto")(run)
    assert any("noise_multiplier is auto" in line for line in verify(run).differences)


def test_the_command_line_says_what_differs_and_exits_with_it(copied, keys, capsys) -> None:
    run, trust = copied("records"), str(keys / PUBLIC_NAME)
    assert main(["account", "--verify", str(run), "--trust", trust]) == 0
    said = capsys.readouterr().out
    assert "recomputed: epsilon" in said and "\nVERIFIED: signed by SHA256:" in said
    assert main(["account", "--verify", str(run)]) == 2
    said = capsys.readouterr().out
    assert "NOT VERIFIED: everything agrees, but anybody could have written it" in said
    in_line(1, "survivors", to=lambda v: v - 1)(run)
    assert main(["account", "--verify", str(run), "--trust", trust]) == 1
    said = capsys.readouterr().out
    assert "differs: rounds.jsonl line 2" in said and "NOT VERIFIED" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["account"], "give the experiment's YAML, or --verify RUN"),
        (["account", "--verify", "/no/such/run"], "holds no run"),
        (["account", "x.yaml", "--verify", "run"], "give neither FILE nor --set"),
        (["account", "x.yaml", "--trust", "key.pem"], "give --verify RUN as well"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, said, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
