"""Where the row maps and the program of a chip live, and what fetching them costs: ``[memory]`` of a target."""

from __future__ import annotations

from dataclasses import dataclass

from ir.errors import XbcError


@dataclass(frozen=True)
class Memory:
    """Memory on the chip and behind it.

    Row maps and program are read once per inference, from beginning to end.  So ``onchip_bytes`` of them stay on the
    chip for good and the rest comes from outside every time: no cache does better on a cycle.

    Fields:
        onchip_bytes: room on the chip for row maps and program; 0: everything comes from outside.
        onchip_pj_per_bit, offchip_pj_per_bit: energy of fetching one bit.
        onchip_bits_per_ns, offchip_bits_per_ns: how fast.
        overlap: the next load of a crossbar is fetched while the one before it is written and read (a second
            buffer per crossbar); false: a crossbar stands idle while its next load is fetched.
    """

    onchip_bytes: float = float(1 << 20)
    onchip_pj_per_bit: float = 1.6
    onchip_bits_per_ns: float = 64.0
    offchip_pj_per_bit: float = 30.0
    offchip_bits_per_ns: float = 100.0
    overlap: bool = True

    def __post_init__(self) -> None:
        for key in ("onchip_bits_per_ns", "offchip_bits_per_ns"):
            if getattr(self, key) <= 0:
                raise XbcError(f"target: memory.{key} = {getattr(self, key)} must be above 0")

    def offchip_share(self, bits: float) -> float:
        """Share of ``bits`` that is fetched from outside in every inference."""
        return max(0.0, 1 - 8 * self.onchip_bytes / bits) if bits > 0 else 0.0

    def pj_per_bit(self, bits: float) -> float:
        """Mean energy of a bit when ``bits`` are fetched per inference."""
        far = self.offchip_share(bits)
        return far * self.offchip_pj_per_bit + (1 - far) * self.onchip_pj_per_bit

    def ns_per_bit(self, bits: float) -> float:
        """Mean time of a bit when ``bits`` are fetched per inference; both memories answer at once."""
        far = self.offchip_share(bits)
        return max(far / self.offchip_bits_per_ns, (1 - far) / self.onchip_bits_per_ns)
