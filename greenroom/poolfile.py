"""Reads pool files: YAML 1.2's core types only, and every problem with its line and its remedy.

PyYAML reads YAML 1.1, in which ``no`` is false and ``1:30`` is ninety; here both are text. Tags
of any programming language, duplicate keys and files over 256 KiB are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from greenroom.core.config import PLANNED, PoolConfig
from greenroom.core.errors import PlannedError, PoolFileError

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
"""Values in one file, counted as often as aliases repeat them."""
MAX_DEPTH = 20

Place = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"
_REMEDIES = {
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "dict_type": "write keys and values, such as {KEY: value}",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "int_from_float": "write a whole number",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "model_type": "write keys and values below it",
    "string_type": "write text, in quotes if it looks like a number or like true",
    "tuple_type": "write a list, such as [make build]",
}


class _Yaml12(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Yaml12.add_implicit_resolver(
        _CORE + _kind,
        re.compile(rf"^(?:{_pattern})$"),
        [*_first, ""] if _kind == "null" else [*_first],
    )


@dataclass
class _Tree:
    """A file's values, the line (from 1) of each, and what is wrong so far as (line, text)."""

    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    planned: list[tuple[int, str]] = field(default_factory=list)
    nodes: int = 0

    def line(self, place: Place) -> int:
        """The line of a value, or of the nearest thing around it that is in the file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def load_pool_file(path: Path) -> PoolConfig:
    """The pool that ``path`` describes; a relative ``repo`` path counts from the file's folder.

    Raises PoolFileError with every problem, one ``file:line: …`` per line, or PlannedError when
    nothing is wrong but that keys are not built yet.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PoolFileError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise PoolFileError(f"{path}: is larger than {MAX_BYTES // 1024} KiB; that is no pool file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PoolFileError(f"{path}:{line}: is not UTF-8 text") from error
    config = parse_pool_file(text, str(path))
    return config.model_copy(update={"repo": _resolved(config.repo, path.resolve().parent)})


def parse_pool_file(text: str, name: str) -> PoolConfig:
    """The pool that ``text`` describes; ``name`` stands for the file in messages.

    Raises as ``load_pool_file``.
    """
    if len(text) > MAX_BYTES:
        raise PoolFileError(f"{name}: is larger than {MAX_BYTES // 1024} KiB; that is no pool file")
    tree = _Tree()
    values = _values(text, name, tree)
    config: PoolConfig | None = None
    try:
        config = PoolConfig.model_validate(values)
    except ValidationError as error:
        for problem in error.errors():
            _explain(problem, tree)
    _refuse_booleans_as_numbers(values, tree)
    if tree.problems:
        raise PoolFileError(_listed(name, tree.problems + tree.planned))
    if tree.planned or config is None:
        raise PlannedError(_listed(name, tree.planned))
    return config


def schema() -> dict[str, Any]:
    """The JSON Schema of a pool file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PoolConfig.model_json_schema(mode="validation"),
        "title": "Greenroom pool file",
    }


def _resolved(repo: str, folder: Path) -> str:
    """An absolute path for a repository given as a path; a URL as it is."""
    if repo.startswith("~/"):
        return str(Path(repo).expanduser())
    if repo.startswith((".", "/")) or (":" not in repo and (folder / repo).exists()):
        return str((folder / repo).resolve())
    return repo


def _listed(name: str, problems: Sequence[tuple[int, str]]) -> str:
    return "\n".join(f"{name}:{line}: {text}" for line, text in sorted(set(problems)))


# ── YAML to values ───────────────────────────────────────────────────────────────────────────


def _values(text: str, name: str, tree: _Tree) -> dict[str, Any]:
    try:
        root = yaml.compose(text, Loader=_Yaml12)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = error.problem or error.context or "cannot be read"
        raise PoolFileError(f"{name}:{line}: is not YAML: {what}") from error
    except yaml.YAMLError as error:
        raise PoolFileError(f"{name}:1: is not YAML: {error}") from error
    except RecursionError as error:
        raise PoolFileError(f"{name}:1: is nested too deeply") from error
    if not isinstance(root, yaml.MappingNode):
        raise PoolFileError(f"{name}:1: write keys and values; name and repo at least")
    try:
        values: dict[str, Any] = _value(root, (), tree)
    except _RefusedNodeError as error:
        raise PoolFileError(f"{name}:{error.line}: {error}") from error
    return values


class _RefusedNodeError(Exception):
    """A node that makes the rest of the file pointless to read; ``line`` counts from 1."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1


def _value(node: yaml.Node, place: Place, tree: _Tree) -> Any:  # noqa: ANN401 what YAML holds
    tree.nodes += 1
    tree.lines.setdefault(place, node.start_mark.line + 1)
    if len(place) > MAX_DEPTH or tree.nodes > MAX_NODES:
        raise _RefusedNodeError(node, "is nested too deeply, or repeats aliases without end")
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
        return _mapping(node, place, tree)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
        return [_value(item, (*place, index), tree) for index, item in enumerate(node.value)]
    read = _SCALARS.get(node.tag.removeprefix(_CORE)) if node.tag.startswith(_CORE) else None
    if not isinstance(node, yaml.ScalarNode) or read is None:
        raise _RefusedNodeError(node, f"tag {node.tag!r} is not allowed; write plain values")
    try:
        return read(node.value)
    except ValueError as error:
        raise _RefusedNodeError(node, f"{node.value!r} is not a value of its tag") from error


def _mapping(node: yaml.MappingNode, place: Place, tree: _Tree) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
            raise _RefusedNodeError(key_node, "a key must be plain text")
        line = key_node.start_mark.line + 1
        if key in found:
            first = tree.lines[*place, key]
            tree.problems.append((line, f"{key}: stands here twice, first in line {first}"))
            continue
        tree.lines[*place, key] = line
        found[key] = _value(value_node, (*place, key), tree)
    return found


def _integer(text: str) -> int:
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan").lower())


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": _integer,
    "float": _float,
    "bool": lambda text: text.lower() == "true",
    "null": lambda _: None,
}


# ── what is wrong, and what would be right ───────────────────────────────────────────────────


def _explain(problem: ErrorDetails, tree: _Tree) -> None:
    place: Place = problem["loc"]
    dotted, line = ".".join(str(part) for part in place), tree.line(place)
    planned = PLANNED.get(dotted)
    if place == ("build",) and isinstance(problem["input"], dict):
        planned = PLANNED["build_image"]
    if planned is not None:
        tree.planned.append((line, f"{dotted}: is planned ({planned}); leave it out for now"))
        return
    if problem["type"] == "missing":
        about = _described(place)
        tree.problems.append((tree.line(place[:-1]), f"{dotted}: is missing; write {about}"))
        return
    if problem["type"] == "extra_forbidden":
        tree.problems.append((line, f"{dotted}: is not a known key; {_nearest(place)}"))
        return
    what = problem["msg"].removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    remedy = _REMEDIES.get(problem["type"])
    about = _described(place)
    said = "; ".join(part for part in (what if remedy is None else remedy, about) if part)
    tree.problems.append((line, f"{dotted}: value {_shown(problem['input'])}: {said}"))


def _shown(value: object) -> str:
    text = re.sub(r"://[^/@]*:[^/@]*@", "://***@", repr(value))
    return text if len(text) <= 80 else text[:77] + "…"


def _model_at(place: Place) -> type[BaseModel]:
    """The model whose keys stand at ``place`` (its parent's keys lead there)."""
    model: type[BaseModel] = PoolConfig
    for part in place:
        known = model.model_fields.get(str(part))
        if known is None or not isinstance(known.annotation, type):
            return model
        if issubclass(known.annotation, BaseModel):
            model = known.annotation
    return model


def _described(place: Place) -> str:
    """What the field at ``place`` is, in the words of the configuration."""
    names = [str(part) for part in place if isinstance(part, str)]
    if not names:
        return ""
    known = _model_at(tuple(names[:-1])).model_fields.get(names[-1])
    return known.description or "" if known is not None else ""


def _nearest(place: Place) -> str:
    keys = list(_model_at(place[:-1]).model_fields)
    close = difflib.get_close_matches(str(place[-1]), keys, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(keys)}"


def _refuse_booleans_as_numbers(values: dict[str, Any], tree: _Tree, place: Place = ()) -> None:
    """Pydantic takes true for 1; a pool file that says ``min: true`` means something else."""
    for key, value in values.items():
        here = (*place, key)
        if isinstance(value, dict):
            _refuse_booleans_as_numbers(value, tree, here)
            continue
        known = _model_at(place).model_fields.get(key)
        numeric = known is not None and known.annotation in (int, float)
        if isinstance(value, bool) and numeric:
            dotted = ".".join(str(part) for part in here)
            tree.problems.append(
                (tree.line(here), f"{dotted}: value {value!r}: write a number; {_described(here)}")
            )
