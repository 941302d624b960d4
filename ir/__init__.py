"""What a crossbar program is: layers, section tables, targets, text form, storage, verifier.

``ir`` knows no ONNX, no solver and no pass; ``passes`` and ``xbc`` build on it.
"""

from ir.arrays import Array, digest, frozen
from ir.cells import DIGITS, ENCODINGS, CellFormat
from ir.errors import XbcError
from ir.layout import Layout
from ir.module import Host, Layer, Module, Origin, Unmapped
from ir.stages import (
    STAGES,
    UNUSED,
    Body,
    Encoded,
    Float,
    Placed,
    Programmed,
    Quantized,
    Sectioned,
    Sliced,
)
from ir.storage import load_module, save_module
from ir.target import ROUTINGS, Target
from ir.text import parse_module, print_module
from ir.verify import INVARIANTS, Problem, VerifyError, check_module, verify_module

__all__ = [
    "DIGITS",
    "ENCODINGS",
    "INVARIANTS",
    "ROUTINGS",
    "STAGES",
    "UNUSED",
    "Array",
    "Body",
    "CellFormat",
    "Encoded",
    "Float",
    "Host",
    "Layer",
    "Layout",
    "Module",
    "Origin",
    "Placed",
    "Problem",
    "Programmed",
    "Quantized",
    "Sectioned",
    "Sliced",
    "Target",
    "Unmapped",
    "VerifyError",
    "XbcError",
    "check_module",
    "digest",
    "frozen",
    "load_module",
    "parse_module",
    "print_module",
    "save_module",
    "verify_module",
]
