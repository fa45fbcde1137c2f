"""Who may import whom: the module map of the design, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("greenroom.core",),
    ("greenroom.gate", "greenroom.services", "greenroom.poolfile", "greenroom.sealing"),
    ("activities",),
    ("workflows",),
    ("greenroom.client", "greenroom.metrics"),
    ("greenroom.api", "greenroom.cli", "worker"),
)
"""A module may import its own layer and those before it."""
CORE_ALLOWED = frozenset(
    [
        "__future__",
        "ast",
        "base64",
        "collections",
        "dataclasses",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
        "heapq",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "pathlib",
        "posixpath",
        "re",
        "shlex",
        "string",
        "tomllib",
        "typing",
        "urllib",
        "pydantic",
        "pydantic_core",
    ]
)
"""Core's whole vocabulary: no clock, no randomness, no environment, no input or output."""
CORE_IO = frozenset(
    [
        "open",
        "read_text",
        "write_text",
        "read_bytes",
        "write_bytes",
        "exists",
        "is_file",
        "is_dir",
        "iterdir",
        "glob",
        "rglob",
        "mkdir",
        "unlink",
        "stat",
        "touch",
        "resolve",
        "expanduser",
        "cwd",
        "home",
        "urlopen",
        "now",
        "today",
    ]
)
ALONE = {"docker": "activities/engine.py"}


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*found, ROOT / "worker.py"] if (ROOT / "worker.py").exists() else found


ALL = sources("greenroom", "activities", "workflows")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def layer(name: str) -> int | None:
    for number, members in enumerate(LAYERS):
        if any(name == member or name.startswith(f"{member}.") for member in members):
            return number
    return None


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_a_later_layer(path: Path) -> None:
    mine = layer(module_of(path))
    if mine is None:
        assert path.name == "__init__.py", f"{path} has no place in the import order"
        return
    for line, name in imports(path):
        theirs = layer(name)
        assert theirs is None or theirs <= mine, f"{path}:{line} imports {name}, a later layer"


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_gate_knows_of_the_services_only_where_things_are(path: Path) -> None:
    me = module_of(path)
    if me.startswith("greenroom.gate"):
        known = [n for _, n in imports(path) if n.startswith("greenroom.services")]
        assert not [n for n in known if not n.startswith("greenroom.services.settings.")]
    if me.startswith(("greenroom.core", "greenroom.services")):
        assert not [n for _, n in imports(path) if n.startswith("greenroom.gate")]


@pytest.mark.parametrize("path", sources("greenroom/core"), ids=lambda p: p.name)
def test_core_is_pure(path: Path) -> None:
    if path.name == "worker.py":
        return
    for line, name in imports(path):
        top = name.partition(".")[0]
        known = top in CORE_ALLOWED or name.startswith("greenroom.core")
        assert known, f"{path}:{line}: core imports {name}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func
            called = (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            )
            assert called not in CORE_IO, f"{path}:{node.lineno}: core calls {called}"


@pytest.mark.parametrize("path", sources("greenroom/client"), ids=lambda p: p.name)
def test_the_client_needs_core_and_no_more_of_ours(path: Path) -> None:
    for line, name in imports(path):
        if path.name != "worker.py" and name.startswith(("greenroom.", "activities", "workflows")):
            own = name.startswith(("greenroom.core.", "greenroom.client."))
            assert own, f"{path}:{line} imports {name}: the distribution greenroom-client has none"


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_foreign_system_has_one_door(path: Path) -> None:
    for line, name in imports(path):
        door = ALONE.get(name.partition(".")[0])
        here = str(path.relative_to(ROOT))
        assert door is None or here == door, f"{path}:{line}: only {door} imports {name}"


@pytest.mark.parametrize(
    "path",
    [p for p in sources("workflows") if p.name not in ("__init__.py", "worker.py")],
    ids=lambda p: p.name,
)
def test_a_workflow_file_has_one_block_of_passed_through_imports(path: Path) -> None:
    tree = ast.parse(path.read_text())
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and any("imports_passed_through" in ast.unparse(item) for item in node.items)
    ]
    assert len(blocks) == 1
    inside = {id(node) for node in ast.walk(blocks[0])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside:
            ours = ast.unparse(node).split()[1].startswith(("greenroom", "activities", "workflows"))
            assert not ours, f"{path}:{node.lineno} is outside the block"


@pytest.mark.parametrize("folder", ["workflows", "activities"])
def test_these_packages_hold_a_docstring_only(folder: str) -> None:
    body = ast.parse((ROOT / folder / "__init__.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr]


def test_the_composition_root_is_short() -> None:
    root = ROOT / "worker.py"
    assert not root.exists() or len(root.read_text().splitlines()) <= 80
