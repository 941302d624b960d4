"""The one table of passes: name -> where it lives.  Nothing is imported until it is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import cast

from ir.errors import XbcError
from passes.base import Pass

PASSES = {
    "quantize": "passes.quantize:Quantize",
    "encode-signs": "passes.encode_signs:EncodeSigns",
    "slice-bits": "passes.slice_bits:SliceBits",
    "form-sections": "passes.form_sections:FormSections",
    "sort-sections": "passes.sort_sections:SortSections",
    "order-sections": "passes.order_sections:OrderSections",
    "deal-sections": "passes.deal_sections:DealSections",
    "match-rows": "passes.match_rows:MatchRows",
    "reprogram": "passes.reprogram:Reprogram",
    "select-write-verify": "passes.select_write_verify:SelectWriteVerify",
    "level-wear": "passes.level_wear:LevelWear",
}


def load_pass(name: str) -> type[Pass]:
    """The class of a pass.  Raises XbcError for an unknown name, with the nearest known one."""
    if name not in PASSES:
        near = difflib.get_close_matches(name, PASSES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise XbcError(f"unknown pass {name!r}{hint} Known passes: {', '.join(PASSES)}")
    module, _, attribute = PASSES[name].partition(":")
    return cast(type[Pass], getattr(importlib.import_module(module), attribute))
