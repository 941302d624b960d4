"""The one table of passes: name -> where it lives.  Nothing is imported until it is asked for.

Installed packages add theirs through entry points of the group ``xbc.passes``.
"""

from __future__ import annotations

import inspect

from ir.registry import Registry
from ir.stages import Body
from passes.base import Pass

PASSES = Registry(
    "xbc.passes",
    "pass",
    {
        "quantize": "passes.quantize:Quantize",
        "encode-signs": "passes.encode_signs:EncodeSigns",
        "slice-bits": "passes.slice_bits:SliceBits",
        "fixed-codebook": "passes.fixed_codebook:FixedCodebook",
        "form-sections": "passes.form_sections:FormSections",
        "sort-sections": "passes.sort_sections:SortSections",
        "order-sections": "passes.order_sections:OrderSections",
        "deal-sections": "passes.deal_sections:DealSections",
        "match-rows": "passes.match_rows:MatchRows",
        "choose-digits": "passes.choose_digits:ChooseDigits",
        "trellis": "passes.trellis:Trellis",
        "order-inputs": "passes.order_inputs:OrderInputs",
        "match-pairs": "passes.match_rows:MatchPairs",
        "stick-bits": "passes.stick_bits:StickBits",
        "hold-codes": "passes.hold_codes:HoldCodes",
        "choose-pairs": "passes.hold_pairs:ChoosePairs",
        "hold-pairs": "passes.hold_pairs:HoldPairs",
        "select-write-verify": "passes.select_write_verify:SelectWriteVerify",
        "avoid-faults": "passes.avoid_faults:AvoidFaults",
        "level-wear": "passes.level_wear:LevelWear",
    },
)


def load_pass(name: str) -> type[Pass]:
    """The class of a pass.

    Raises: XbcError for an unknown name, with the nearest known one; for a name that two packages bring; for an
        installed package whose pass cannot be imported or is none.
    """
    entry = PASSES.find(name)
    found = entry.load("pass")
    if not (isinstance(found, type) and issubclass(found, Pass)) or inspect.isabstract(found):
        raise entry.fault("pass", f"is no pass: {entry.value} must be a subclass of xbc.Pass with run()")
    if getattr(found, "name", None) != name:
        raise entry.fault("pass", f"is called {getattr(found, 'name', None)!r} by its class")
    if not all(isinstance(getattr(found, key, None), type) and issubclass(getattr(found, key), Body) for key in
               ("requires", "ensures")):  # fmt: skip
        raise entry.fault("pass", "must say the stages it requires and ensures")
    return found
