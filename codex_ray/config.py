"""YAML to an experiment and back, with errors that name the field and the remedy in one line."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Plain values, as `yaml.SafeLoader` makes them, and no mapping that says a key twice.

    The last would silently win: a second `Effect: Allow` over the Deny that a reader sees.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._seen: set[yaml.Node] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what `<<` names into the mapping, after looking at the keys that are written."""
        if node not in self._seen:  # later on it holds what was merged in, and may replace
            self._seen.add(node)
            self._refuse_twice(node)
        super().flatten_mapping(node)

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        keys = set()
        for written, _ in node.value:
            special = written.tag in ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
            key = written.value if special else self.construct_object(written, deep=True)
            if not isinstance(key, Hashable):
                continue  # told of when the mapping is made
            if key in keys:
                said = f"the key {key!r} stands twice: take one out"
                raise yaml.MarkedYAMLError(problem=said, problem_mark=written.start_mark)
            keys.add(key)


def _plain(text: str) -> Any:
    """What a YAML text says.

    Raises:
        yaml.YAMLError: it is no YAML, says a key twice, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="it is nested too deeply") from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it holds no mapping.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        hint = did_you_mean(file.name, beside) if beside else f"{file.parent} holds no YAML file"
        raise ConfigError(f"{file}: no such file: {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    try:
        data = _plain(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or "not readable"
        raise ConfigError(f"{file}{where}: not valid YAML: {said}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: holds no mapping of keys to values")
    return data


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`a.b=c` assignments as a mapping of dotted keys to YAML values.

    Raises:
        ConfigError: an assignment has no key or no "=".
    """
    found = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: write it as key=value, for example --set rounds=10")
        try:
            found[key.strip()] = parse_number(_plain(value))
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: the value is not valid YAML") from None
    return found


def parse_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as text; everyone who writes it means the number."""
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    if isinstance(value, list):
        return [parse_number(item) for item in value]
    if isinstance(value, dict):
        return {key: parse_number(item) for key, item in value.items()}
    return value


def override(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with each dotted key replaced; a new `kind` drops the fields of the old one.

    Raises:
        ConfigError: a key goes through something that is no mapping.
    """
    result = _copied(data)
    # A shorter key first, so that `federation.protocol.kind` is set before what belongs to that
    # kind.
    for key in sorted(overrides, key=lambda k: (k.count("."), not k.endswith(".kind"))):
        *path, last = key.split(".")
        inner = result
        for depth, part in enumerate(path):
            nested = inner.setdefault(part, {})
            if not isinstance(nested, dict):
                raise ConfigError(f"{key}: {'.'.join(path[: depth + 1])} is a value, not a section")
            inner = nested
        if last == "kind" and inner.get("kind") != overrides[key]:
            inner.clear()
        inner[last] = overrides[key]
    return result


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def experiment_from(data: Mapping[str, Any]) -> Experiment:
    """The experiment that a mapping describes.

    Raises:
        ConfigError: naming the first wrong field, and how many more there are.
    """
    # Here, so that a YAML can be read without waiting for torch.
    from codex_ray.calibrating import asked, calibrated
    from codex_ray.experiment import Experiment

    mapping = parse_number(dict(data))
    places = asked(mapping)
    for place in places:
        mapping = override(mapping, {".".join((*place, "noise_multiplier")): 1.0})
    experiment = validated(Experiment, mapping)
    for place in places:
        experiment = calibrated(experiment, place)
    return experiment


def validated(model: type[Model], data: Mapping[str, Any]) -> Model:
    """`data` as a validated object, or the first problem in one line.

    Raises:
        ConfigError: a field is unknown, missing, or has a value that it cannot have.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A key that is unknown says more than the one that is missing in its place.
        problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(_in_words(problems[0], model, data) + more) from None


def _in_words(problem: ErrorDetails, model: type[BaseModel], data: Mapping[str, Any]) -> str:
    """One problem as `dotted.key: what is wrong: what to do`."""
    path = [str(part) for part in _without_tags(problem["loc"], data)]
    key = ".".join(path) or "the experiment"
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            known = _fields_at(model, path[:-1], data)
            return f"{key}: unknown key: {did_you_mean(path[-1], known)}"
        case "missing":
            return f"{key}: is missing: give it a value"
        case "union_tag_invalid":
            kinds = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
            tag = str(context["tag"])
            every = f"it is one of {', '.join(kinds)}"
            hint = did_you_mean(tag, kinds)
            near = f"{hint} ({every})" if hint.endswith("?") else every
            return f"{key}.kind: {tag!r} is no kind of {path[-1]}: {near}"
        case "union_tag_not_found":
            return f"{key}.kind: is missing: say which kind of {path[-1]} it is"
        case "value_error":
            return str(context["error"])
        case _:
            said = problem["msg"].removeprefix("Input should be ").rstrip(".")
            return f"{key}: {problem['input']!r} cannot be used: it must be {said}"


def _without_tags(loc: tuple[int | str, ...], data: Any) -> list[int | str]:
    """The location of a problem without the union tags that pydantic puts between the keys."""
    path: list[int | str] = []
    for part in loc:
        if isinstance(data, Mapping) and part not in data and data.get("kind") == part:
            continue
        path.append(part)
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            data = None
    return path


def _fields_at(model: type[BaseModel], path: list[str], data: Any) -> list[str]:
    """The fields that the object at `path` may have, given the kinds that `data` chose."""
    for part in path:
        annotation = model.model_fields[part].annotation
        data = data.get(part) if isinstance(data, Mapping) else None
        kind = data.get("kind") if isinstance(data, Mapping) else None
        members = [m for m in _members(annotation) if issubclass(m, BaseModel)]
        fitting = [m for m in members if "kind" not in m.model_fields or _kind(m) == kind]
        if not fitting:
            return []
        model = fitting[0]
    return list(model.model_fields)


def _members(annotation: Any) -> list[type]:
    """The classes of a possibly annotated union."""
    parts = getattr(annotation, "__args__", None)
    if parts is None:
        return [annotation] if isinstance(annotation, type) else []
    return [member for part in parts for member in _members(part)]


def _kind(model: type[BaseModel]) -> str:
    return str(model.model_fields["kind"].default)


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every field of the experiment, defaults included, as plain data."""
    return json.loads(experiment.model_dump_json())  # type: ignore[no-any-return]  # an object, by schema


def forget_findings(mapping: dict[str, Any]) -> None:
    """Takes out of a resolved mapping what a run itself found about its data and wrote there."""
    data = mapping.get("data")
    if isinstance(data, dict):
        for found in ("card", "manifest"):
            data.pop(found, None)
        if isinstance(data.get("prepare"), dict):
            data["prepare"].pop("statistics", None)


def to_yaml(experiment: Experiment) -> str:
    """The resolved experiment as YAML that loads to an equal one."""
    return yaml.safe_dump(resolved(experiment), sort_keys=False, allow_unicode=True)


def schema() -> dict[str, Any]:
    """The JSON schema of the experiment's YAML, for editors to complete and check it."""
    from codex_ray.experiment import Experiment

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "codex_ray experiment",
    } | Experiment.model_json_schema()
