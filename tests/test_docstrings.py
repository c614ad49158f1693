"""Every public name is documented, and the examples in docstrings hold."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hemoscan

PACKAGE = Path(hemoscan.__file__).parent
PATHS = {
    ".".join(("hemoscan", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """Yield a module or class and whatever is public in it."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{name}.{child.name}", child


@pytest.mark.parametrize("module", PATHS)
def test_public_names_have_docstrings(module: str):
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    assert [name for name, node in public(tree, module) if not (ast.get_docstring(node) or "").strip()] == []


def test_a_missing_docstring_is_noticed():
    tree = ast.parse(
        '"""Doc."""\nclass A:\n    """Doc."""\n    def b(self): ...\n    def _c(self): ...\ndef d(): ...\n'
    )
    assert [name for name, node in public(tree, "m") if not ast.get_docstring(node)] == ["m.A.b", "m.d"]


@pytest.mark.parametrize("module", [name for name in PATHS if not name.endswith("__main__")])
def test_examples_in_docstrings_hold(module: str):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
