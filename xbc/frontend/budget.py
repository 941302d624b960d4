"""What reading a model may cost: one budget for a whole import, so that no file of a few bytes can ask for more.

The bounds are far above what exporters write; ``docs/onnx.md`` states them with what was measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ir.errors import XbcError

NODES = 200_000
"""Nodes of a model, sub-graphs and inlined functions included."""
LAYERS = 20_000
EDGES = 1_000_000
"""(layer, layer) pairs of which the first feeds the second."""
BASE_BYTES = 1 << 30
BYTES_PER_BYTE = 8
"""Constants that are computed from others may take ``BASE_BYTES`` and this many times what the model holds."""
OPERATIONS = 20_000_000_000
"""Multiplications that constants may be made of."""
ELEMENTS = 1 << 40
"""Elements of one value that the model declares."""
WORK = 4
"""Times the bytes of all constants that xbc itself may compute to look at weights."""


def half_of_memory() -> int:
    """Bytes: half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass
class Budget:
    """What is left for one import.

    Fields:
        file: the model, for messages.
        held: bytes of the model and of its external data.
        made: bytes of constants that folding makes.
        operations: multiplications behind them.
        work: bytes computed to look at weights.
    """

    file: Path
    held: int
    made: int = field(default=0, init=False)
    operations: int = field(default=0, init=False)
    work: int = field(default=0, init=False)

    @property
    def limit(self) -> int:
        """Bytes that computed constants may take."""
        return min(BASE_BYTES + BYTES_PER_BYTE * self.held, half_of_memory())

    def check_nodes(self, count: int) -> None:
        """Raises XbcError for more nodes than ``NODES``."""
        if count > NODES:
            raise XbcError(
                f"{self.file} has {count} nodes with its functions written out, {NODES} at most are read: "
                f"export it without unrolling"
            )

    def fold(self, size: int, operations: int, where: str) -> None:
        """Count a constant that will be made before anybody makes it.

        Raises: XbcError that begins with ``where`` when the constants together are too large or too costly.
        """
        self.made += size
        self.operations += operations
        if self.made > self.limit:
            raise XbcError(
                f"{where} and the constants before it would take {self.made} bytes, {self.limit} at most for a "
                f"model of {self.held}: store the constants instead of computing them"
            )
        if self.operations > OPERATIONS:
            raise XbcError(
                f"{where} and the constants before it take {self.operations} multiplications, {OPERATIONS} at most: "
                f"store the constants instead of computing them"
            )

    def look(self, size: int, where: str) -> None:
        """Count bytes that are computed to look at a weight.  Raises XbcError that begins with ``where``."""
        self.work += size
        if self.work > WORK * self.limit:
            raise XbcError(
                f"{where} and the constants before it take {self.work} bytes to compute, {WORK * self.limit} at "
                f"most: store the constants instead of computing them"
            )
