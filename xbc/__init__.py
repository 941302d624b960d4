"""xbc: ONNX networks to reprogramming programs for memristor crossbar chips.

The public API is what this package names; it is imported when first used::

    import xbc

    done = xbc.compile_model("model.onnx", "model.xbc", target="gather-128")
    print(done.summary["reduction"])
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ir.errors import XbcError
    from ir.module import Layer, Module
    from ir.storage import load_module, save_module
    from ir.target import Target
    from ir.text import parse_module, print_module
    from passes.base import Context, Pass
    from passes.manager import run_pipeline
    from passes.pipeline import parse_pipeline
    from xbc.backend import Program, emit_program
    from xbc.driver.compile import Compiled, compile_model
    from xbc.driver.verify import verify_program
    from xbc.frontend import import_model
    from xbc.targets import list_targets, load_target

# onnxruntime looks once, when it is first imported: it then opens no connection and leaves no file
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_WHERE: Final = {
    "Compiled": "xbc.driver.compile",
    "Context": "passes.base",
    "Layer": "ir.module",
    "Module": "ir.module",
    "Pass": "passes.base",
    "Program": "xbc.backend",
    "Target": "ir.target",
    "XbcError": "ir.errors",
    "compile_model": "xbc.driver.compile",
    "emit_program": "xbc.backend",
    "import_model": "xbc.frontend",
    "list_targets": "xbc.targets",
    "load_module": "ir.storage",
    "load_target": "xbc.targets",
    "parse_module": "ir.text",
    "parse_pipeline": "passes.pipeline",
    "print_module": "ir.text",
    "run_pipeline": "passes.manager",
    "save_module": "ir.storage",
    "verify_program": "xbc.driver.verify",
}

__all__ = [
    "Compiled",
    "Context",
    "Layer",
    "Module",
    "Pass",
    "Program",
    "Target",
    "XbcError",
    "compile_model",
    "emit_program",
    "import_model",
    "list_targets",
    "load_module",
    "load_target",
    "parse_module",
    "parse_pipeline",
    "print_module",
    "run_pipeline",
    "save_module",
    "verify_program",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'xbc' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
