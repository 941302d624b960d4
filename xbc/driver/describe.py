"""What a module holds at any stage, as facts: layers, wear, one section down to its cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Encoded, Placed, Programmed, Quantized, Sectioned, Sliced
from passes.counting import count_module


def module_facts(module: Module) -> dict[str, Any]:
    """Layers, wear and unmapped nodes of a module at any stage."""
    counts = None
    if module.layers and all(isinstance(layer.body, Placed) for layer in module.layers):
        counts = count_module(module)
    writes = counts.layer_writes if counts else {}
    return {
        "module": module.name,
        "target": module.target.to_dict(),
        "weights": module.weights,
        "layers": [layer_row(layer, writes.get(layer.name)) for layer in module.layers],
        "edges": [list(edge) for edge in module.edges],
        "wear": _wear(module, counts.wear, counts.wear_summary()) if counts else None,
        "unmapped": [
            {"node": u.node, "op_type": u.op_type, "weights": u.weights, "reason": u.reason}
            for u in module.unmapped
        ],
    }


def layer_row(layer: Layer, writes: int | None) -> dict[str, Any]:
    """One line of the layers table; keys of stages that the layer has not reached are None."""
    body = layer.body
    outputs, inputs = body.shape
    error = None
    if isinstance(body, Programmed):
        difference = (body.effective_codes() - body.codes).astype(np.float64)
        error = float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0
    return {
        "name": layer.name,
        "node": layer.origin.node,
        "op_type": layer.origin.op_type,
        "stage": body.stage(),
        "outputs": outputs,
        "inputs": inputs,
        "groups": layer.origin.groups,
        "products": layer.origin.products,
        "bits": body.bits if isinstance(body, Quantized) else None,
        "scales": int(body.scale.size) if isinstance(body, Quantized) else None,
        "encoding": body.encoding if isinstance(body, Encoded) else None,
        "cells_per_weight": body.cells.columns if isinstance(body, Sliced) else None,
        "sections": body.sections if isinstance(body, Sectioned) else None,
        "crossbars": int(np.unique(body.crossbar).size) if isinstance(body, Placed) else None,
        "writes": writes,
        "rms_code_error": error,
    }


def _wear(module: Module, wear: Array, summary: dict[str, float]) -> dict[str, Any]:
    """Writes per cell and inference: summary, histogram over powers of two, mean per bit slice."""
    edges = [0, 1, 2]
    while edges[-1] <= int(wear.max(initial=0)):
        edges.append(edges[-1] * 2)
    cells, _ = np.histogram(wear, bins=np.array([*edges, np.iinfo(np.int64).max], np.float64))
    columns = {layer.at(Sliced).cells.columns for layer in module.layers}
    by_digit = None
    if len(columns) == 1:
        (width,) = columns
        used = wear.shape[2] // width * width
        by_digit = wear[:, :, :used].reshape(-1, used // width, width).mean(axis=(0, 1)).round(4).tolist()
    return {
        **summary,
        "lifetime_inferences": module.target.endurance / summary["max"] if summary["max"] else None,
        "histogram": [
            {"writes_from": low, "cells": int(n)} for low, n in zip(edges, cells, strict=True) if n
        ],
        "mean_by_digit": by_digit,
    }


def layer_facts(layer: Layer, section: int, rows: int) -> dict[str, Any]:
    """The layer's table row and, once it has sections, the cells of one.

    ``cells`` are level digits, most significant first, of every row of the first output of the section;
    ``changes`` marks the next load on the same crossbar: ``+`` SET, ``-`` RESET, ``.`` unchanged.
    """
    facts: dict[str, Any] = {"layer": layer_row(layer, None)}
    body = layer.body
    if isinstance(body, Quantized):
        codes = body.codes
        low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
        facts["codes"] = {"min": low, "max": high, "zeros": int((codes == 0).sum())}
    if not isinstance(body, Sectioned):
        return facts
    if section >= body.sections:
        raise XbcError(
            f"layer {layer.name!r} has {body.sections} sections, numbered from 0; "
            f"section {section} is not among them"
        )
    following = next_on_crossbar(body, section)
    shown = min(rows, body.rows)
    now = _section(body, section, shown)
    facts["section"] = now
    facts["following"] = None
    if following is not None:
        then = _section(body, following, shown)
        for before, after in zip(now["rows"], then["rows"], strict=True):
            after["changes"] = changes(before["cells"], after["cells"])
        facts["following"] = then
    return facts


def next_on_crossbar(body: Sectioned, section: int) -> int | None:
    """The layer's next section in load order on the same crossbar, None when there is none."""
    if not isinstance(body, Placed):
        return section + 1 if section + 1 < body.sections else None
    later = np.flatnonzero((body.crossbar == body.crossbar[section]) & (body.step > body.step[section]))
    return int(later[np.argmin(body.step[later])]) if len(later) else None


def _section(body: Sectioned, section: int, rows: int) -> dict[str, Any]:
    part = slice(section, section + 1)
    wanted = body.section_codes(part)[0, :rows, 0]
    words: Array = body.stored[part] if isinstance(body, Programmed) else body.wanted_words(part)
    stored = body.stored_codes(part)[0, :rows, 0] if isinstance(body, Programmed) else wanted
    levels = body.cells.levels(words[0, :rows, 0])
    gated = None if body.row_outputs is None else body.row_outputs[section]
    return {
        "index": section,
        "output": int(body.outputs[section, 0]),
        "outputs": [int(o) for o in (body.outputs[section] if gated is None else np.unique(gated)) if o >= 0],
        "rank": int(body.rank[section]),
        "polarity": int(body.polarity[section]),
        "crossbar": int(body.crossbar[section]) if isinstance(body, Placed) else None,
        "step": int(body.step[section]) if isinstance(body, Placed) else None,
        "rows": [
            {
                "row": r,
                "input": int(body.inputs[section, r]) if body.inputs[section, r] >= 0 else None,
                **({} if gated is None else {"output": int(gated[r]) if gated[r] >= 0 else None}),
                "code": int(wanted[r]),
                "stored": int(stored[r]),
                "cells": "".join(f"{level:x}" for level in levels[r]) if body.inputs[section, r] >= 0 else "",
            }
            for r in range(rows)
        ],
    }


def changes(before: str, after: str) -> str:
    """``+`` where a cell is SET, ``-`` RESET, ``.`` unchanged; nothing when either row is don't care."""
    if not before or not after:
        return ""
    marks = ("+" if new > old else "-" if new < old else "." for old, new in zip(before, after, strict=True))
    return "".join(marks)
