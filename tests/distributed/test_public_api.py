"""What uses Ray uses its public names only: a release of Ray may change all others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import perception_encoder

PACKAGE = Path(perception_encoder.__file__).parent
LIBRARIES = {"ray", "lance_ray"}
USES = re.compile(r"\b(import|from) (ray|lance_ray)\b")


def find_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, also inside of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{one.name}" for one in node.names)


def find_private(source: str) -> list[str]:
    """Return the private names that a module uses, if it imports Ray at all."""
    tree = ast.parse(source)
    of_ray = [name for name in find_imports(tree) if name.split(".")[0] in LIBRARIES]
    if not of_ray:
        return []
    attributes = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    private = [name for name in attributes if name.startswith("_")]
    keywords = [
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg is not None
    ]
    private += [name for name in keywords if name.startswith("_")]
    return private + [name for name in of_ray if "._" in name]


def test_the_package_uses_no_private_name_of_ray() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    users = {path: source for path, source in sources.items() if USES.search(source)}
    assert PACKAGE / "distributed" / "cluster.py" in users
    assert {
        str(path): found for path, source in users.items() if (found := find_private(source))
    } == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ray\nray._private.worker.global_worker", ["_private"]),
        ("def f():\n    from ray._raylet import ObjectRef", ["ray._raylet.ObjectRef"]),
        ("import ray\nray.init(_temp_dir='x')", ["_temp_dir"]),
        ("import ray\nhandle.__ray_ready__.remote()", ["__ray_ready__"]),
        ("import ray\nself._handle.run.remote()", []),
        ("import array\narray._private", []),
    ],
)
def test_private_names_are_found(source: str, found: list[str]) -> None:
    assert find_private(source) == found
