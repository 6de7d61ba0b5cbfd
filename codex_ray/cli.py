"""The command line: `codex-ray run | sweep | account | keys | bench | schema`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray import __version__
from codex_ray.errors import CodexRayError, ConfigError, InputError, RunDirectoryError

if TYPE_CHECKING:
    from codex_ray.federation.state import RoundResult
    from codex_ray.records.run_directory import RunDirectory

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except InputError as error:
        print(f"codex-ray: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except (CodexRayError, OSError) as error:
        print(f"codex-ray: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("codex-ray: interrupted", file=sys.stderr)
        return INTERRUPTED


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codex-ray", description="Private federated learning, simulated at scale on Ray."
    )
    parser.add_argument("--version", action="version", version=f"codex-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment, or resume one")
    run.add_argument("file", nargs="?", help="the experiment's YAML")
    run.add_argument(
        "--out", metavar="DIR", help="run directory (default: runs/NAME-001, -002, ...)"
    )
    run.add_argument("--resume", metavar="DIR", help="go on with an interrupted run")
    _add_set(run)
    run.set_defaults(command=_run)

    sweep = commands.add_parser("sweep", help="run a grid of experiments through Ray Tune")
    sweep.add_argument("file", help="the sweep's YAML")
    sweep.add_argument(
        "--out", metavar="DIR", help="folder for the sweep (default: runs/NAME-001, ...)"
    )
    _add_set(sweep)
    sweep.set_defaults(command=_sweep)

    _add_account(commands)
    _add_keys(commands)
    _add_audit(commands)

    bench = commands.add_parser(
        "bench",
        help="measure secure aggregation beside what it cannot be faster than, or privacy against "
        "its bars",
    )
    bench.add_argument("subject", choices=["secagg", "privacy"], help="what to measure")
    bench.add_argument("--json", metavar="FILE", help="write the figures to a file as well")
    bench.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="one setting; may be repeated"
    )
    bench.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="fewer clients, seeds and repeats by this factor, to see that it works",
    )
    bench.set_defaults(command=_bench)

    schema = commands.add_parser("schema", help="write the JSON schema of an experiment's YAML")
    schema.add_argument("--out", metavar="FILE", help="write to a file instead of the screen")
    schema.set_defaults(command=_schema)
    return parser


def _add_account(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    account = commands.add_parser(
        "account",
        help="print what an experiment will cost in privacy, or check what a run says it did cost",
        description="With FILE: what the experiment will cost in privacy. With --verify RUN: "
        "computes everything in a run's privacy.json again from its config.yaml and rounds.jsonl, "
        "and checks the signature with the public key in --trust.",
        epilog="Exit status of --verify: 0 if everything agrees and the trusted key signed it; 1 "
        "if anything differs, each thing on a line; 2 if nothing differs but no --trust was given, "
        "so that anybody could have written it (and for input that cannot be used).",
    )
    account.add_argument("file", nargs="?", help="the experiment's YAML")
    account.add_argument("--verify", metavar="RUN", help="check the certificate of a finished run")
    account.add_argument(
        "--trust",
        metavar="FILE",
        help="the public key of whoever you believe, from them and not from the run",
    )
    _add_set(account)
    account.set_defaults(command=_account)


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    audit = commands.add_parser(
        "audit", help="try an experiment's noise, clipping and sampling against its ledger"
    )
    audit.add_argument("run", help="a run's directory, or an experiment's YAML")
    audit.add_argument(
        "--canaries",
        type=int,
        metavar="N",
        help="canaries in a probe (default: the experiment's audit.canaries, or 500)",
    )
    audit.add_argument("--json", metavar="FILE", help="write the verdicts to a file as well")
    _add_set(audit)
    audit.set_defaults(command=_audit)


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = commands.add_parser("keys", help="make the key that signs certificates, or show it")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    for name, words, command in (
        ("init", "make a key pair; never overwrites one", _keys_init),
        ("show", "print the fingerprint and where the files are", _keys_show),
    ):
        action = actions.add_parser(name, help=words)
        action.add_argument(
            "--out",
            metavar="DIR",
            help="folder of the key (default: $CODEX_RAY_KEYS, or ~/.config/codex_ray)",
        )
        action.set_defaults(command=command)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field by its dotted key; may be given again",
    )


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.api import RUNS, open_run, plan, run
    from codex_ray.certifying.terms import delta_warnings
    from codex_ray.config import parse_overrides
    from codex_ray.records.console import Progressing
    from codex_ray.records.run_directory import RunDirectory

    overrides = parse_overrides(arguments.set)
    console = Console(markup=False)
    if arguments.resume is not None:
        if arguments.file is not None or arguments.out is not None:
            raise ConfigError(
                "--resume: the run has its own file and directory: give neither FILE nor --out"
            )
        experiment, directory = open_run(arguments.resume, overrides)
        done = sum(1 for _ in directory.rounds.open("rb")) if directory.rounds.exists() else 0
        out = directory.path
    else:
        experiment = plan(arguments.file, overrides)
        out = Path(arguments.out or RunDirectory.next_under(RUNS, experiment.name))
        done = 0
    where = f"{experiment.cluster.hosts} Ray hosts" if experiment.cluster.hosts else "this process"
    progress = Progressing(console, done=done, rounds=experiment.rounds)

    def watch(result: RoundResult | None) -> None:
        if result is None:
            progress.ready()
        else:
            progress.round(result)

    console.print(f"{experiment.name}: {experiment.rounds} rounds in {where}, into {out}")
    for warning in delta_warnings(experiment):
        console.print(f"warning: {warning}", highlight=False)
    try:
        with progress.shown():
            if arguments.resume is not None:
                result = run(None, overrides, resume=out, watch=watch)
            else:
                result = run(experiment, out=out, watch=watch)
    except KeyboardInterrupt:
        if not (out / "config.yaml").exists():
            raise
        print(
            "\ncodex-ray: interrupted; the last round is in a checkpoint: codex-ray run --resume "
            f"{out}",
            file=sys.stderr,
        )
        return INTERRUPTED
    _show(console, result.directory)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.scale <= 1:
        raise ConfigError(f"--scale is {arguments.scale:g}: give a factor above 0 and up to 1")
    return _bench_privacy(arguments) if arguments.subject == "privacy" else _bench_secagg(arguments)


def _bench_privacy(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.bench.privacy import PARTS, bench, write_json
    from codex_ray.bench.privacy_table import WIDEST_TABLE, table_of

    _check_only(arguments.only, list(PARTS))
    console = Console(markup=False, highlight=False)
    rows = bench(
        [name for name in PARTS if name in (arguments.only or PARTS)],
        scale=arguments.scale,
        watch=lambda row: console.print(f"{row.name}: {row.found}", soft_wrap=True),
    )
    Console(width=max(console.width, WIDEST_TABLE), highlight=False).print(
        table_of(rows, scaled=arguments.scale < 1)
    )
    if arguments.json is not None:
        write_json(rows, Path(arguments.json), scale=arguments.scale)
        console.print(f"figures: {arguments.json}")
    return 0


def _check_only(asked: Sequence[str], names: Sequence[str]) -> None:
    if unknown := sorted(set(asked) - set(names)):
        raise ConfigError(f"--only: there is no {unknown[0]}: choose of {', '.join(names)}")


def _bench_secagg(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.bench.secagg import bench, write_json
    from codex_ray.bench.settings import SETTINGS
    from codex_ray.bench.table import WIDEST_TABLE, table_of

    names = [setting.name for setting in SETTINGS]
    _check_only(arguments.only, names)
    chosen = [setting for setting in SETTINGS if setting.name in (arguments.only or names)]
    if arguments.scale < 1:
        chosen = [setting.scaled(arguments.scale) for setting in chosen]
    console = Console(markup=False)
    console.print("CPU seconds; nothing else should run on this machine meanwhile.")
    rows = bench(chosen, watch=lambda row: console.print(f"{row.setting}: {row.seconds:.2f} CPU-s"))
    Console(width=max(console.width, WIDEST_TABLE)).print(
        table_of(rows, scaled=arguments.scale < 1)
    )
    if arguments.json is not None:
        write_json(rows, Path(arguments.json))
        console.print(f"figures: {arguments.json}")
    return 0


def _show(console: object, directory: str) -> None:
    """The closing tables, and where everything is."""
    from rich.console import Console

    from codex_ray.records.console import client_table, closing_table, facts, verdict
    from codex_ray.records.result import RunResult
    from codex_ray.records.run_directory import RunDirectory

    assert isinstance(console, Console)
    result, files = RunResult.read(directory), RunDirectory(Path(directory))
    console.print()
    console.print(closing_table(result))
    console.print(f"\n{verdict(result)}", soft_wrap=True, highlight=False)
    per_client = client_table(result)
    if per_client is not None:
        console.print()
        console.print(per_client)
    console.print()
    for name, value in [
        *facts(result),
        ("certificate", _certificate(files)),
        ("run directory", str(files.path)),
        ("report", f"{files.report} (picture: {files.picture.name})"),
        ("TensorBoard", f"tensorboard --logdir {files.tensorboard}"),
    ]:
        console.print(f"{name:<24}{value}", soft_wrap=True, highlight=False)


def _certificate(files: RunDirectory) -> str:
    """What became of a finished run's certificate, in a line."""
    from codex_ray.records.certificate import page_of, read_document

    try:
        document = read_document(files)
    except RunDirectoryError as error:
        return str(error)
    return document.refused or f"{page_of(files)}, {document.signed_in_words}"


def _account(arguments: argparse.Namespace) -> int:
    if arguments.verify is not None:
        return _verify(arguments)
    if arguments.file is None:
        raise ConfigError("account: give the experiment's YAML, or --verify RUN")
    if arguments.trust is not None:
        raise ConfigError("--trust: is the key to check a run with: give --verify RUN as well")
    return _forecast(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    """Prints what checking a run's certificate came to."""
    from codex_ray.certifying.verify import verify

    if arguments.file is not None or arguments.set:
        raise ConfigError("--verify: a run has its own configuration: give neither FILE nor --set")
    trust = None if arguments.trust is None else Path(arguments.trust)
    found = verify(Path(arguments.verify), trust=trust)
    for line in found.differences:
        print(f"differs: {line}")
    for note in found.notes:
        print(f"note: {note}")
    document = found.document
    if found.differences or document is None or document.certificate is None:
        print(f"NOT VERIFIED: {len(found.differences)} differences")
        return found.status
    for claim in document.certificate.claims:
        spent = claim.accounting
        print(
            f"recomputed: epsilon {spent.epsilon:.4f} at delta {spent.delta:g} for one "
            f"{claim.unit}, against {claim.against}"
        )
    if found.pinned and document.signature is not None:
        print(f"VERIFIED: signed by {document.signature.key}")
    else:
        print(
            "NOT VERIFIED: everything agrees, but anybody could have written it: give the public "
            "key of whoever you believe as --trust FILE"
        )
    return found.status


def _forecast(arguments: argparse.Namespace) -> int:
    """Prints the cost of an experiment that has not run."""
    from rich.console import Console
    from rich.table import Table

    from codex_ray.accounting import claims, costs
    from codex_ray.api import plan
    from codex_ray.certifying.terms import delta_warnings
    from codex_ray.config import parse_overrides

    experiment = plan(arguments.file, parse_overrides(arguments.set))
    console = Console(markup=False)
    words = claims(experiment)
    if not words:
        console.print(
            f"{experiment.name}: no noise is added anywhere, so there is no privacy claim"
        )
        return 0
    for said in words:
        console.print(f"{experiment.name}: {said}", highlight=False)
    for warning in delta_warnings(experiment):
        console.print(f"warning: {warning}", highlight=False)
    found = list(costs(experiment))
    table = Table(title=f"at delta {experiment.budget.delta:g}")
    for heading in ("after round", "unit", "epsilon", "budget"):
        table.add_column(heading, justify="right")
    for cost in found:
        verdict = "" if cost.affordable else "over: the run stops before this round"
        table.add_row(str(cost.rounds), cost.unit, f"{cost.epsilon:.4f}", verdict)
    console.print(table)
    for said in dict.fromkeys(f"{cost.unit}: by {cost.accountant}" for cost in found):
        console.print(said, highlight=False)
    return 0


def _keys_init(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import key_folder, make_keys

    key, public = make_keys(_folder(arguments) or key_folder())
    print(f"{key.public.fingerprint}")
    print(f"public key, to hand out: {public}")
    print(f"private key, for its owner alone: {public.parent}")
    return 0


def _keys_show(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import PUBLIC_NAME, key_folder, read_signing_key

    folder = _folder(arguments) or key_folder()
    key = read_signing_key(folder)
    if key is None:
        raise InputError(f"{folder}: there is no key in it: make one with codex-ray keys init")
    print(f"{key.public.fingerprint}")
    print(f"public key, to hand out: {folder / PUBLIC_NAME}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path | None:
    return None if arguments.out is None else Path(arguments.out)


def _audit(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.api import plan
    from codex_ray.auditing import Auditor
    from codex_ray.config import parse_overrides
    from codex_ray.experiment import Audit, assemble, single_thread
    from codex_ray.records.run_directory import RunDirectory, to_json_bytes

    path = Path(arguments.run)
    file = RunDirectory(path).config if path.is_dir() else path
    experiment = plan(file, parse_overrides(arguments.set))
    canaries = arguments.canaries or (experiment.audit or Audit()).canaries
    single_thread()
    console, verdicts = Console(markup=False, highlight=False), []
    for verdict in Auditor(assemble(experiment), canaries).verdicts():
        verdicts.append(verdict)
        console.print(f"{'passed' if verdict.passed else 'FAILED'}  {verdict.words}")
    if arguments.json is not None:
        found = {"verdicts": [verdict.to_json() for verdict in verdicts]}
        Path(arguments.json).write_bytes(to_json_bytes(found))
    failed = sum(not verdict.passed for verdict in verdicts)
    console.print(f"{experiment.name}: {len(verdicts) - failed} of {len(verdicts)} passed")
    return 1 if failed else 0


def _schema(arguments: argparse.Namespace) -> int:
    from codex_ray.config import schema

    text = json.dumps(schema(), indent=2)
    if arguments.out is None:
        print(text)
    else:
        try:
            Path(arguments.out).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"--out {arguments.out}: cannot be written: {error.strerror}"
            ) from None
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.sweep import sweep_and_show
    from codex_ray.config import parse_overrides

    return sweep_and_show(arguments.file, parse_overrides(arguments.set), out=arguments.out)


if __name__ == "__main__":
    sys.exit(main())
