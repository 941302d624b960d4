"""Words of pipelines that older versions wrote, and what stands for them now."""

from __future__ import annotations

from ir.errors import XbcError

MODES = {
    "none": None,
    "random": "stick-bits",
    "optimal": "hold-codes",
    "pairs": "choose-pairs",
    "near-pairs": "hold-pairs",
}
"""Modes of the pass ``reprogram``, and the pass that took each one's place (None: nothing is left to do)."""


def renew(name: str, settings: dict[str, str]) -> tuple[str | None, dict[str, str], str]:
    """Name and options of an item of a pipeline's text in today's words, and a note where they were others.

    The name is None where the item does nothing.  Raises: XbcError for a mode of reprogram that never was.
    """
    settings = dict(settings)
    if name == "reprogram":
        mode = settings.pop("mode", "none")
        if mode not in MODES:
            raise XbcError(f"reprogram has no mode {mode!r}; its modes were {', '.join(MODES)}")
        new = MODES[mode]
        if new is None and settings:
            raise XbcError(
                f"reprogram: {next(iter(settings))} has no effect with mode=none, exact codes: leave it out"
            )
        said = f"{new}" if new else "nothing: exact codes are what a program holds without it"
        return new, settings, f"reprogram{{mode={mode}}} is now {said}"
    if name == "match-rows" and settings.get("pairs") in ("true", "false"):
        pairs = settings.pop("pairs") == "true"
        new = "match-pairs" if pairs else name
        return new, settings, f"match-rows{{pairs={str(pairs).lower()}}} is now {new}"
    if name == "order-sections" and settings.get("method") == "auto":
        del settings["method"]
        return name, settings, "order-sections{method=auto} is now order-sections: its method is local"
    return name, settings, ""
