"""One table of the ONNX operators that xbc knows: a definition of each, all its sides in one file.

``definition`` says what a definition holds, ``table`` where to find and how to add one.
"""

from xbc.operators.definition import MisshapenError, Operator, Refusal, Weight, attributes
from xbc.operators.table import find, operators, register

__all__ = [
    "MisshapenError",
    "Operator",
    "Refusal",
    "Weight",
    "attributes",
    "find",
    "operators",
    "register",
]
