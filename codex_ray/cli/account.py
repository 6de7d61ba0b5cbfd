"""`codex-ray account`: what an experiment will cost in privacy, or what a run says it did cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.options import add_set
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_account(commands: Commands) -> None:
    """The command and its options."""
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
    add_set(account)
    account.set_defaults(command=_account)


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
