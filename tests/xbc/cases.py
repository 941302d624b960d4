"""Programs of a real small network on three chips, and an independent replay of their tables."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from passes.pipeline import LEVELS
from xbc.backend import Program
from xbc.driver.compile import compile_model

MODELS = Path(__file__).parents[2] / "models"
CHIPS = {
    "gather": ("gather-128", {"crossbars": 3, "rows": 64}),
    "pairs": ("rram-64", {"crossbars": 5}),
    "gated": ("gather-128", {"crossbars": 3, "rows": 64, "row_gating": True}),
    "offset": ("isaac-128", {"crossbars": 2, "rows": 30, "columns": 26, "outputs_per_section": 3}),
}


@dataclass(frozen=True)
class Case:
    """A program, and its tables walked by a plain loop."""

    folder: Path

    @cached_property
    def program(self) -> Program:
        return Program.open(self.folder)

    @cached_property
    def writes(self) -> list[dict[str, int]]:
        return pq.read_table(self.folder / "writes.parquet").to_pylist()

    @cached_property
    def loads(self) -> list[dict[str, int]]:
        return pq.read_table(self.folder / "loads.parquet").to_pylist()

    def images(self, inference: str) -> list[np.ndarray]:
        """The crossbar after every load; each checked against the CRC-32 of the loads table."""
        return self._images[inference]

    @cached_property
    def _images(self) -> dict[str, list[np.ndarray]]:
        target = self.program.target
        chip = np.zeros((target.crossbars, target.rows, target.columns), np.uint8)
        images = {}
        for run in ("first", "steady"):
            found = []
            skip = 2 if run == "first" else 1
            for load in self.loads:
                bar = chip[load["crossbar"]]
                for w in self.writes[load["write_start"] : load["write_start"] + load["write_count"]]:
                    if w["phase"] != skip:
                        assert bar[w["row"], w["column"]] == w["before"]
                        bar[w["row"], w["column"]] = w["after"]
                assert zlib.crc32(bar.tobytes()) == load[f"post_crc_{run}"]
                found.append(bar.copy())
            images[run] = found
        return images


def pipeline(name: str) -> str:
    """Text of the passes for one of the chips."""
    return LEVELS[1].replace("form-sections", "form-sections{scope=layer}") if name == "gated" else LEVELS[1]


def compiled(name: str, folder: Path) -> Case:
    """The digits LSTM on one of the chips."""
    target, settings = CHIPS[name]
    compile_model(
        MODELS / "digits_lstm.onnx", folder, target=target, settings=settings, pipeline=pipeline(name)
    )
    return Case(folder)
