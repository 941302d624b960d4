"""The emitted program: written by ``emit_program``, read back by ``Program``."""

from xbc.backend.emit import emit_program

__all__ = ["emit_program"]
