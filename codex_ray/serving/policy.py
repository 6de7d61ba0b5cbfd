"""Who may do what: statements that allow and deny, where a deny wins and silence is a no.

The form is that of the policies cloud storage uses, so that one can be read, or pasted, as it is.
What we would not enforce (`Condition`, `NotAction`, ...) is refused instead of passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from codex_ray.config import load_yaml, validated
from codex_ray.errors import ConfigError
from codex_ray.serving.patterns import matches


def _listed(value: Any) -> Any:
    """A list of one for what may be written without the list."""
    return [value] if isinstance(value, str) else value


def _principals(value: Any) -> Any:
    """`{"AWS": [...]}` and the like as one list of names."""
    if isinstance(value, dict):
        return [name for names in value.values() for name in _listed(names)]
    return _listed(value)


def _plain(name: str) -> str:
    """Refuses what is one character, or a variable, where such policies come from."""
    if "?" in name or "${" in name:
        raise ValueError("? and ${...} would not be enforced: write names, and * for the rest")
    return name


Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Pattern = Annotated[Name, AfterValidator(_plain)]
Names = Annotated[tuple[Pattern, ...], BeforeValidator(_listed), Field(min_length=1, max_length=64)]
Holders = Annotated[tuple[Pattern, ...], BeforeValidator(_principals), Field(min_length=1)]


class Clause(BaseModel):
    """A line of a policy: these may, or may not, do this to that; `*` is any characters.

    Of an action case says nothing, as where such policies come from; of all else it does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    Sid: Name | None = None
    Effect: Literal["Allow", "Deny"]
    Principal: Holders = Field(default=("*",), description="Roles; * is everyone.")
    Action: Names
    Resource: Names = ("*",)

    def covers(self, role: str, action: str, resource: str) -> bool:
        """Whether it speaks of this."""
        return (
            any(matches(pattern, role) for pattern in self.Principal)
            and any(matches(pattern.casefold(), action.casefold()) for pattern in self.Action)
            and any(matches(pattern, resource) for pattern in self.Resource)
        )


@dataclass(frozen=True)
class Decision:
    """Yes or no, and which statement said so: the first deny, else the first allow, else none."""

    allowed: bool
    statement: str | None

    @property
    def words(self) -> str:
        """For whoever keeps the policy."""
        said = "allowed" if self.allowed else "denied"
        return f"{said} by {self.statement or 'default: no statement allows it'}"


class Policy(BaseModel):
    """Statements in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    Version: Any = None
    Id: Name | None = None
    Statement: tuple[Clause, ...] = Field(min_length=1, max_length=256)

    def decide(self, roles: Iterable[str], action: str, resource: str) -> Decision:
        """Whether somebody with `roles` may do `action` to `resource`."""
        allowed = None
        held = tuple(roles)
        for number, statement in enumerate(self.Statement, start=1):
            if not any(statement.covers(role, action, resource) for role in held):
                continue
            name = statement.Sid or f"statement {number}"
            if statement.Effect == "Deny":
                return Decision(False, name)
            allowed = allowed or name
        return Decision(allowed is not None, allowed)


DEFAULT: Final = Policy.model_validate(
    {
        "Statement": [
            {
                "Sid": "UsersAsk",
                "Effect": "Allow",
                "Principal": ["user", "researcher", "admin", "project_admin"],
                "Action": ["model:Predict", "model:GetCard", "model:GetSchema"],
            },
            {
                "Sid": "OwnersAndAuditorsRead",
                "Effect": "Allow",
                "Principal": ["data_owner", "auditor"],
                "Action": ["model:GetCard", "model:GetSchema"],
            },
            {
                "Sid": "MonitorsMeasure",
                "Effect": "Allow",
                "Principal": ["monitor", "auditor", "admin", "project_admin"],
                "Action": ["metrics:Get"],
            },
            {
                "Sid": "NobodyWrites",
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["model:PutObject", "model:DeleteObject"],
            },
        ]
    }
)
"""Where no policy is given: nobody fetches the weights, and nobody changes a model."""


def read_policy(file: Path) -> Policy:
    """The policy of a YAML or JSON file.

    Raises:
        ConfigError: it is none, or says something that would not be enforced.
    """
    return policy_from(load_yaml(file), where=str(file))


def policy_from(data: Mapping[str, Any], *, where: str = "the policy") -> Policy:
    """The policy that a mapping describes.

    Raises:
        ConfigError: as of `read_policy`.
    """
    found = dict(data)
    clauses = found.get("Statement")
    if isinstance(clauses, dict):  # one alone may stand without its list
        clauses = [clauses]
    if not isinstance(clauses, list):
        raise ConfigError(f"{where}: Statement: write a list of statements")
    # One by one, so that an error names the statement.
    found["Statement"] = [
        _clause(clause, where=f"{where}: statement {number}")
        for number, clause in enumerate(clauses, start=1)
    ]
    try:
        return validated(Policy, found)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _clause(data: object, *, where: str) -> Clause:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: is no mapping of Effect, Action, ...")
    try:
        return validated(Clause, data)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
