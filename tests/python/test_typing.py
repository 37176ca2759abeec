"""The type stub of the compiled module: installed, complete, and right about the elements."""

from __future__ import annotations

import ast
from pathlib import Path

import betatron as bt
import pytest
from betatron import _core


@pytest.fixture(scope="module")
def stub() -> ast.Module:
    places = [Path(_core.__file__).parent / "_core.pyi", Path(bt.__file__).parent / "_core.pyi"]
    for path in places:
        if path.exists():
            return ast.parse(path.read_text())
    pytest.skip("this build has no stub (it is made by the packaging target _core_stub)")


def test_every_class_and_function_is_in_the_stub(stub: ast.Module) -> None:
    names = {node.name for node in stub.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    public = {n for n in dir(_core) if not n.startswith("_") and callable(getattr(_core, n))}
    assert public <= names


@pytest.mark.parametrize("kind", list(bt.kinds()))
def test_constructors_show_their_parameters(stub: ast.Module, kind: str) -> None:
    node = next(n for n in stub.body if isinstance(n, ast.ClassDef) and n.name == kind)
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    shown = [a.arg for a in init.args.args[1:]]
    assert shown == [p["name"] for p in bt.kinds()[kind]]
    code = {"code", "push", "inverse", "reference"} if kind == "Programmable" else set()
    common = {p["name"] for p in bt.common_parameters()}
    assert {a.arg for a in init.args.kwonlyargs} == common | code
