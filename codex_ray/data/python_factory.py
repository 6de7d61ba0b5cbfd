"""A data set that a user's own Python function makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.dotted import import_by_name
from codex_ray.data.in_memory import as_records, check_client
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import ClientId, Component


@dataclass(frozen=True)
class CheckedDataset:
    """A user's data set, every record of which is checked before it is handed out."""

    inner: Any
    source: str

    @property
    def population(self) -> int:
        """How many clients there are."""
        return int(self.inner.population)

    def client(self, client: ClientId) -> Records:
        """The records of one client.

        Raises:
            DataError: there is no such client, or its records cannot be trained on.
        """
        check_client(client, self.population)
        return self._checked(self.inner.client(client), f"client {client}")

    def test(self) -> Records:
        """The held-out pooled test set.

        Raises:
            DataError: it cannot be evaluated on.
        """
        return self._checked(self.inner.test(), "the test set")

    @property
    def stand_in(self) -> FederatedDataset:
        """This one, unless the user's names another for whatever depends on no value."""
        below = getattr(self.inner, "stand_in", None)
        return self if below is None else CheckedDataset(below, f"{self.source}, stand_in")

    def _checked(self, records: object, who: str) -> Records:
        where = f"{self.source}, {who}"
        if not isinstance(records, Records):
            raise DataError(
                f"{where}: got a {type(records).__name__}, not Records: return "
                "codex_ray.data.dataset.Records(features, labels)"
            )
        return as_records(records.features, records.labels, where=where)


class PythonData(Component):
    """Whatever a function of yours returns, if it has `population`, `client(id)` and `test()`.

    `codex_ray.data.in_memory.InMemory` is such a thing, ready to be filled. The function runs once
    in every process that carries clients, and must return the same data set in each.
    """

    kind: Literal["python"] = "python"
    factory: str = Field(
        description="The function that makes the data set, as package.module:function; the working "
        "directory is searched too. A parameter named `public` receives the run's public "
        "SeedTree, from which splits are drawn."
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments that the function is called with."
    )

    def open(self, public: SeedTree) -> FederatedDataset:
        """The user's data set behind a check of every record.

        Raises:
            ConfigError: there is no such function, or it does not take these arguments.
            DataError: what it returns is no federated data set.
        """
        made = self._call(import_by_name(self.factory, "data.factory"), public)
        missing = [name for name in ("population", "client", "test") if not hasattr(made, name)]
        if missing:
            raise DataError(
                f"{self.factory} returned a {type(made).__name__} without {', '.join(missing)}: "
                "return a codex_ray.data.in_memory.InMemory, or an object with population, "
                "client(id) and test()"
            )
        if isinstance(made.population, bool) or not isinstance(made.population, int):
            raise DataError(
                f"{self.factory}: population is {made.population!r}: make it an integer property"
            )
        if made.population < 1:
            raise DataError(f"{self.factory}: there are {made.population} clients: make at least 1")
        return CheckedDataset(made, self.factory)

    def _call(self, factory: Callable[..., Any], public: SeedTree) -> Any:
        """What the factory returns; wrong arguments are told apart from an error within."""
        if not callable(factory):
            raise ConfigError(
                f"data.factory: {self.factory} is a {type(factory).__name__}, not a function: name "
                "the function that makes the data set"
            )
        signature = inspect.signature(factory)
        args = dict(self.args)
        if "public" in signature.parameters and "public" not in args:
            args["public"] = public
        try:
            signature.bind(**args)
        except TypeError as error:
            raise ConfigError(
                f"data.args: {self.factory}{signature} cannot be called with "
                f"{', '.join(self.args) or 'no arguments'}: {error}"
            ) from error
        return factory(**args)
