"""The emitted program: written by ``emit_program``, read back by ``Program``."""

from xbc.backend.emit import emit_program
from xbc.backend.program import LayerRow, Lists, Program, ProgramError

__all__ = ["LayerRow", "Lists", "Program", "ProgramError", "emit_program"]
