"""Imports run one way: xbc -> passes -> ir."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "ir": {"passes", "xbc", "onnx", "onnxruntime", "ortools", "pyarrow", "click", "rich", "torch"},
    "passes": {"xbc", "onnx", "onnxruntime", "pyarrow", "click", "rich", "torch"},
}


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if (
                called in ("import_module", "__import__")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                names.add(str(node.args[0].value).split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    for file in files:
        wrong = imported(file.read_text(encoding="utf-8")) & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_scan_sees_every_kind_of_import() -> None:
    source = "import onnx.helper as h\ndef f():\n    from xbc.cli import x\n    import_module('click.core')\n"
    assert imported(source) == {"onnx", "xbc", "click"}
