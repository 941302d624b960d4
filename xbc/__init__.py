"""xbc: ONNX networks to reprogramming programs for memristor crossbar chips.

The public API is what this package names; it is imported when first used.  Its functions check what they are
given, and raise XbcError and nothing else for any fault in it::

    import xbc

    done = xbc.compile_model("model.onnx", "model.xbc", target="gather-128")
    print(done.summary["reduction"])
"""

from __future__ import annotations

import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ir.errors import XbcError
    from ir.module import Layer, Module
    from ir.storage import load_module, save_module
    from ir.target import Target
    from ir.text import parse_module, print_module
    from passes.base import Context, Outcome, Pass
    from passes.manager import run_pipeline
    from passes.pipeline import parse_pipeline
    from xbc.backend import Program, emit_program
    from xbc.chip import Report
    from xbc.chip.wear import wear_program
    from xbc.driver.compile import Compiled, compile_model
    from xbc.driver.describe import module_facts
    from xbc.driver.models import Graded, measure_sensitivities, rescale_model
    from xbc.driver.recover import readback_program, resume_program
    from xbc.driver.verify import verify_program
    from xbc.export import export_program
    from xbc.frontend import import_model
    from xbc.report.write import report_programs
    from xbc.simulate.programs import evaluate_program, simulate_program, sweep_program
    from xbc.targets import list_targets, load_target
    from xbc.update.emit import update_program

# onnxruntime looks once, when it is first imported: it then opens no connection and leaves no file
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_WHERE: Final = {
    "Compiled": "xbc.driver.compile",
    "Context": "passes.base",
    "Graded": "xbc.driver.models",
    "Layer": "ir.module",
    "Module": "ir.module",
    "Outcome": "passes.base",
    "Pass": "passes.base",
    "Program": "xbc.backend",
    "Report": "xbc.chip",
    "Target": "ir.target",
    "XbcError": "ir.errors",
    "compile_model": "xbc.driver.compile",
    "emit_program": "xbc.backend",
    "evaluate_program": "xbc.simulate.programs",
    "export_program": "xbc.export",
    "import_model": "xbc.frontend",
    "list_targets": "xbc.targets",
    "load_module": "ir.storage",
    "load_target": "xbc.targets",
    "measure_sensitivities": "xbc.driver.models",
    "module_facts": "xbc.driver.describe",
    "parse_module": "ir.text",
    "parse_pipeline": "passes.pipeline",
    "print_module": "ir.text",
    "readback_program": "xbc.driver.recover",
    "report_programs": "xbc.report.write",
    "rescale_model": "xbc.driver.models",
    "resume_program": "xbc.driver.recover",
    "run_pipeline": "passes.manager",
    "save_module": "ir.storage",
    "simulate_program": "xbc.simulate.programs",
    "sweep_program": "xbc.simulate.programs",
    "update_program": "xbc.update.emit",
    "verify_program": "xbc.driver.verify",
    "wear_program": "xbc.chip.wear",
}

__all__ = [
    "Compiled",
    "Context",
    "Graded",
    "Layer",
    "Module",
    "Outcome",
    "Pass",
    "Program",
    "Report",
    "Target",
    "XbcError",
    "compile_model",
    "emit_program",
    "evaluate_program",
    "export_program",
    "import_model",
    "list_targets",
    "load_module",
    "load_target",
    "measure_sensitivities",
    "module_facts",
    "parse_module",
    "parse_pipeline",
    "print_module",
    "readback_program",
    "report_programs",
    "rescale_model",
    "resume_program",
    "run_pipeline",
    "save_module",
    "simulate_program",
    "sweep_program",
    "update_program",
    "verify_program",
    "wear_program",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'xbc' has no attribute {name!r}")
    found = getattr(importlib.import_module(_WHERE[name]), name)
    if not inspect.isfunction(found):
        return found
    from xbc.driver.door import public

    return public(found)


def __dir__() -> list[str]:
    return list(__all__)
