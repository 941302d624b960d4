"""Chip descriptions: a validated, immutable record of a crossbar chip.

Constants are those of the chip itself; where they come from stands in the comments of the TOML files.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ir.cells import ENCODINGS
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.memory import Memory

T = TypeVar("T")

ROUTINGS = {
    "gather": "every row of a section takes any input of its output(s)",
    "block": "a section takes a run of consecutive inputs; rows may be permuted inside it",
    "fixed": "row r of block b is input b * rows + r",
}

ADDERS = {
    "fixed": "columns count for what the encoding says",
    "powers": "for plus or minus any power of two",
    "small": "for plus or minus 1, 3, 5 or 7 times any power of two",
    "any": "for any integer",
}
"""What the adders behind the columns can multiply a column's sum by."""
SMALL_FACTORS = {"powers": 1, "small": 7}
"""Largest odd factor that an adder has."""

CHOICES = {
    "adc_range": ("full", "calibrated", "shared", "clipped"),
    "adc_rounding": ("nearest", "floor"),
    "signed_inputs": ("twos-complement", "offset"),
    "input_range": ("dynamic", "calibrated", "shared"),
    "error_law": ("normal", "lognormal"),
}
"""Words that the text fields of ``Converters`` and ``Device`` may hold."""


CALIBRATED = ("calibrated", "shared")
"""Ranges that need calibration inputs: one for each layer, or one for all layers."""


@dataclass(frozen=True)
class Write:
    """Cost of writing: one cell per pulse pair (write plus its verify reads are `trials` pulses)."""

    set_pj: float = 10.0
    reset_pj: float = 10.0
    set_ns: float = 100.0
    reset_ns: float = 100.0
    parallel_cells: int = 128
    trials_verified: float = 1.0
    trials_unverified: float = 1.0


@dataclass(frozen=True)
class Read:
    """Cost of one analog read of a section (all driven rows, one input slice) and of one verify read."""

    cell_pj: float = 0.01
    array_ns: float = 100.0
    verify_pj: float = 0.1
    verify_ns: float = 20.0


@dataclass(frozen=True)
class Converters:
    """DAC and ADC: bits, how many columns share one ADC, conversion cost.

    Fields:
        dac_bits: input bits that one read applies; fewer than ``input_bits`` means several reads
            (bit-serial when 1), as many means one (parallel).
        adc_bits: an ADC gives codes ``0 .. 2**adc_bits - 1``.
        input_bits: bits of an input code, sign included.
        columns_per_adc: neighbouring columns that take turns at one ADC and so share its range.
        adc_range: ``full`` (0 to what all rows could sum to), ``calibrated`` (0 to the largest sum that the layer
            shows on calibration inputs), ``shared`` (the largest of these for all layers), ``clipped`` (one code
            per unit of the sum, saturating at the top code).
        adc_rounding: ``nearest`` (halves up) or ``floor``.
        signed_inputs: ``twos-complement`` (a read of its own for the sign bit) or ``offset`` (inputs are
            shifted to be positive, the shift times the weights' sum is subtracted digitally).
        input_range: ``dynamic`` (each sample's own extremes), ``calibrated`` (fixed for each layer, from
            calibration inputs) or ``shared`` (the largest of these for all layers).
    """

    dac_bits: int = 1
    adc_bits: int = 9
    input_bits: int = 8
    columns_per_adc: int = 8
    adc_pj: float = 2.0
    adc_ns: float = 1.0
    adc_range: str = "full"
    adc_rounding: str = "nearest"
    signed_inputs: str = "twos-complement"
    input_range: str = "dynamic"


@dataclass(frozen=True)
class Device:
    """The memristor: conductance window and its imperfections (0 = ideal).

    Fields:
        g_min_siemens, g_max_siemens: conductance of the lowest and the highest level.
        sigma_programmed, sigma_verified: programming error without and with write-verify; a fraction of
            the window ``g_max - g_min`` for the normal law, of the wanted conductance's logarithm for the
            lognormal.
        error_law: ``normal`` or ``lognormal``.
        error_low_level: error of the lowest level as a multiple of the highest level's, linear in
            between (1 = the same at every level).
        verify_window: write-verify repeats until the error is within this fraction of the window
            (the normal law is cut there); 0 = no window, ``sigma_verified`` alone.
        set_error, reset_error: multiples of the error for cells whose last write was a SET, a RESET.
        read_noise: standard deviation per read, relative to the cell's own conductance.
        drift_exponent: G(t) = G0 * (t / 1 s) ** -drift_exponent.
        drift_spread: standard deviation of the exponent from cell to cell.
        retention_s: time between programming and read (drift starts at 1 s).
        stuck_low, stuck_high: fraction of cells stuck.
        reference_column: the current of the lowest level is subtracted by a reference column of such
            cells; without it the finite on/off ratio adds to every sum.
        line_ohm: wire resistance between neighbouring cells.
    """

    g_min_siemens: float = 1e-6
    g_max_siemens: float = 1e-4
    sigma_programmed: float = 0.0
    sigma_verified: float = 0.0
    error_law: str = "normal"
    error_low_level: float = 1.0
    verify_window: float = 0.0
    set_error: float = 1.0
    reset_error: float = 1.0
    read_noise: float = 0.0
    drift_exponent: float = 0.0
    drift_spread: float = 0.0
    retention_s: float = 1.0
    stuck_low: float = 0.0
    stuck_high: float = 0.0
    reference_column: bool = True
    line_ohm: float = 0.0


@dataclass(frozen=True)
class Area:
    """What the parts take in silicon, and what area studies need beyond ``converters``; 0 = not known.

    Fields:
        cell_um2: one memristor; driver_um2: one row driver of one bit; adc_um2: one ADC of
            ``converters.adc_bits``; adder_um2: the shift-and-add unit behind it.
        driver_pj: one row driven for one read.
        adc_area_growth, adc_energy_growth: factor of an ADC's area and energy per further bit.
    """

    cell_um2: float = 0.0
    driver_um2: float = 0.0
    adc_um2: float = 0.0
    adder_um2: float = 0.0
    driver_pj: float = 0.0
    adc_area_growth: float = 2.0
    adc_energy_growth: float = 2.0


@dataclass(frozen=True)
class Target:
    """A chip.

    Fields:
        rows, columns: cells of one crossbar.
        bits_per_cell: levels are 0 .. 2**bits_per_cell - 1.
        crossbars: arrays on the chip.
        outputs_per_section: outputs that share the rows of a section (at most what the columns hold).
        encoding: where signs live unless the pipeline says otherwise.
        routing: see ``ROUTINGS``.
        adders: see ``ADDERS``; other than ``fixed``, the weights of the columns are a layer's choice (digits encoding).
        row_gating: rows can be switched per output within a section (needed by scope=layer).
        endurance: writes a cell survives.
        faulty: (crossbar, row, column, level) of cells that cannot be written.
        extra: JSON text of the tables ``[extra.NAME]``, each for the pass of that name (see ``extra_table``);
            None without one.
    """

    name: str
    rows: int
    columns: int
    bits_per_cell: int = 1
    crossbars: int = 1
    outputs_per_section: int = 1
    encoding: str = "driver"
    routing: str = "gather"
    adders: str = "fixed"
    row_gating: bool = False
    endurance: float = 1e6
    faulty: FaultyCells = field(default_factory=FaultyCells)
    description: str = ""
    write: Write = field(default_factory=Write)
    read: Read = field(default_factory=Read)
    converters: Converters = field(default_factory=Converters)
    device: Device = field(default_factory=Device)
    area: Area = field(default_factory=Area)
    memory: Memory = field(default_factory=Memory)
    extra: str | None = None

    def __post_init__(self) -> None:
        limits = {
            "rows": (1, 65535), "columns": (1, 65535), "bits_per_cell": (1, 4), "crossbars": (1, 2**24),
            "outputs_per_section": (1, 65535),
        }  # fmt: skip
        for key, (low, high) in limits.items():
            if not low <= getattr(self, key) <= high:
                raise self._bad(key, f"= {getattr(self, key)} is outside {low}..{high}")
        if self.encoding not in ENCODINGS:
            raise self._bad("encoding", f"= {self.encoding!r} is unknown; known: {', '.join(ENCODINGS)}")
        if self.adders not in ADDERS:
            raise self._bad("adders", f"= {self.adders!r} is unknown; known: {', '.join(ADDERS)}")
        if self.routing not in ROUTINGS:
            raise self._bad("routing", f"= {self.routing!r} is unknown; known: {', '.join(ROUTINGS)}")
        if self.encoding == "driver" and self.outputs_per_section != 1:
            raise self._bad(
                "encoding", "= 'driver' needs outputs_per_section = 1: a row driver has one sign for its row"
            )
        if not 0 < self.endurance < float("inf"):
            raise self._bad("endurance", f"= {self.endurance} must be positive and finite")
        for section in (self.write, self.read, self.converters, self.device, self.area, self.memory):
            table = type(section).__name__.lower()
            for f in dataclasses.fields(section):
                value = getattr(section, f.name)
                if isinstance(value, str):
                    if value not in CHOICES[f.name]:
                        choices = ", ".join(CHOICES[f.name])
                        raise self._bad(f"{table}.{f.name}", f"= {value!r} is unknown; known: {choices}")
                    continue
                low = 1 if isinstance(value, int) and not isinstance(value, bool) else 0
                if not low <= value < float("inf"):
                    raise self._bad(f"{table}.{f.name}", f"= {value} must be at least {low} and finite")
                if type(value) is int and value >= 1 << 31:
                    raise self._bad(f"{table}.{f.name}", f"= {value} is above {(1 << 31) - 1}")
        if self.device.stuck_low + self.device.stuck_high > 1:
            raise self._bad(
                "device.stuck_low", "+ stuck_high are fractions of the cells, their sum is above 1"
            )
        for key, top in (("dac_bits", 16), ("adc_bits", 24), ("input_bits", 16)):
            if getattr(self.converters, key) > top:
                raise self._bad(f"converters.{key}", f"= {getattr(self.converters, key)} is above {top}")
        if self.device.g_max_siemens <= self.device.g_min_siemens:
            raise self._bad("device.g_max_siemens", "must be above device.g_min_siemens")
        wrong = self.faulty.outside(self.crossbars, self.rows, self.columns, 2**self.bits_per_cell)
        if wrong:
            raise self._bad("faulty", f"entry {wrong} is no [crossbar, row, column, level] of this chip")
        self.extras()

    def adds(self, digit: int) -> bool:
        """Whether the adders can multiply a column's sum by ``digit``."""
        if self.adders in SMALL_FACTORS:
            return digit != 0 and abs(digit) // (digit & -digit) <= SMALL_FACTORS[self.adders]
        return self.adders == "any"

    def _bad(self, key: str, problem: str) -> XbcError:
        return XbcError(f"target {self.name!r}: {key} {problem}")

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping (nested tables as dicts), the inverse of ``from_dict``."""
        out = dataclasses.asdict(dataclasses.replace(self, faulty=FaultyCells())) | {
            "faulty": self.faulty.to_plain()
        }
        del out["extra"]
        return {**out, "extra": self.extras()} if self.extra else out

    def extras(self) -> dict[str, dict[str, Any]]:
        """The tables ``[extra.NAME]`` by name."""
        try:
            tables = json.loads(self.extra or "{}")
        except ValueError:
            tables = None
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise self._bad("extra", "must hold tables, [extra.NAME] for the pass NAME")
        return tables

    def extra_table(self, name: str, kind: type[T]) -> T:
        """The table ``[extra.name]`` as the dataclass ``kind``; its defaults where the description has none.

        Raises: XbcError for an unknown or missing key, a wrong type, or what ``kind`` itself refuses.
        """
        who = f"target {self.name!r}"
        return typing.cast(T, _build(kind, self.extras().get(name, {}), who, f"extra.{name}."))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Target:
        """Validated target; errors name the key.

        Raises: XbcError for an unknown key, a wrong type or a value out of range.
        """
        name = data.get("name")
        return typing.cast(Target, _build(cls, data, f"target {name!r}" if name else "target", ""))

    def override(self, settings: Mapping[str, Any]) -> Target:
        """The target with dotted keys replaced (``{"crossbars": 64, "write.set_pj": 2.0}``)."""
        data = self.to_dict()
        for key, value in settings.items():
            *path, last = key.split(".")
            table: Any = data
            for part in path:
                table = table.get(part) if isinstance(table, dict) else None
            for_pass = path[:1] == ["extra"] and len(path) == 2  # the pass knows the keys of its table
            known = isinstance(table, dict) and (for_pass or last in table)
            if not known or isinstance(table.get(last), dict):
                keys = _keys(data)
                near = difflib.get_close_matches(key, keys, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ";"
                raise XbcError(f"target {self.name!r} has no key {key!r}{hint} keys: {', '.join(keys)}")
            table[last] = value
        return Target.from_dict(data)


def _keys(data: Mapping[str, Any], prefix: str = "") -> list[str]:
    out: list[str] = []
    for key, value in data.items():
        out += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return out


def _build(cls: type[Any], data: Mapping[str, Any], who: str, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ";"
            raise XbcError(
                f"{who}: unknown key {prefix}{key}{hint} known: {', '.join(prefix + k for k in known)}"
            )
    values: dict[str, Any] = {}
    for key, f in known.items():
        if key not in data:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise XbcError(f"{who}: key {prefix}{key} is missing")
            continue
        values[key] = _convert(data[key], hints[key], who, prefix + key)
    return cls(**values)


def _convert(value: Any, hint: Any, who: str, key: str) -> Any:
    if key == "extra":
        try:
            return json.dumps(value, sort_keys=True, allow_nan=False) if value else None
        except (TypeError, ValueError):
            raise XbcError(f"{who}: extra holds a value that is no number, word, list or table") from None
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise XbcError(f"{who}: {key} must be a table")
        return _build(typing.cast(type, hint), value, who, key + ".")
    if hint is float and type(value) is int and abs(value) < 10**300:
        return float(value)
    if hint is FaultyCells:
        try:
            return FaultyCells.from_plain(value)
        except XbcError as error:
            raise XbcError(f"{who}: {error}") from None
    if type(value) is not hint:
        raise XbcError(f"{who}: {key} = {value!r} must be {'a' if hint is not int else 'an'} {hint.__name__}")
    return value
