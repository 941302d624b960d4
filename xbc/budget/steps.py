"""The two parts of -O3: up to placed sections, and what holds codes behind them."""

from __future__ import annotations

from dataclasses import dataclass

from ir.module import Module
from ir.stages import Placed
from passes.base import Context
from passes.choose_digits import ChooseDigits
from passes.hold_codes import HoldCodes
from passes.hold_pairs import HoldPairs
from passes.manager import Options, PassRecord, run_pipeline
from passes.match_rows import MatchPairs, MatchRows
from passes.matchers import far_layer
from passes.pairs import free_pairs
from passes.pipeline import AS_IT_IS, Pipeline, Shape, level_pipeline, parse_pipeline
from passes.trellis import Trellis

WIDE = "quantize,encode-signs,slice-bits,form-sections,order-sections{method=rank},deal-sections{method=contiguous}"
"""How -O3 begins where second moments are known (see ``tune.add_moments``); choose-digits and trellis end it."""

MATCH_OVER_HOLD = 5.0
"""Usual penalty of matching over that of holding: the assignment takes what a row pays at once for granted, the
programme sees what a write saves later on."""


@dataclass(frozen=True)
class Prepared:
    """A module at stage Placed, the passes that made it, and their records."""

    module: Module
    steps: Pipeline
    records: list[PassRecord]


def is_wide(context: Context) -> bool:
    """Whether -O3 decides words by trellis."""
    return context.moments is not None


def placing_steps(shape: Shape, wide: bool = False) -> Pipeline:
    """The passes of -O3 up to placed sections (``wide``: see ``WIDE``)."""
    if wide:
        return shape.of(parse_pipeline(WIDE))
    return shape.of(level_pipeline(2)).until("match-rows")


def prepare(module: Module, context: Context, options: Options, shape: Shape = AS_IT_IS) -> Prepared:
    """The part of -O3 that does not depend on the penalty."""
    steps = placing_steps(shape, is_wide(context))
    run = run_pipeline(module, steps, context, options)
    return Prepared(run.module, steps, run.records)


def hold_steps(
    placed: Module, lambda_: float, ratio: float, grades: tuple[float, ...], wide: bool = False
) -> Pipeline:
    """Rows matched at ``ratio`` times the penalty ``lambda_``, and codes held at it."""
    lambda_, match = six_digits(lambda_), six_digits(ratio * lambda_)
    if wide:
        return Pipeline([ChooseDigits(lambda_), Trellis(lambda_)])
    if free_pairs(placed):
        return Pipeline([MatchPairs(lambda_, grades), HoldPairs(lambda_, grades)])
    pairs = [(layer, layer.at(Placed)) for layer in placed.layers]
    rows = MatchRows(match, grades) if far_layer(pairs) is None else MatchRows()
    return Pipeline([rows, HoldCodes(lambda_, grades=grades)])


def lossless_steps(placed: Module, wide: bool = False) -> Pipeline:
    """The same of -O2."""
    if wide:
        return level_pipeline(2).after("deal-sections")
    return level_pipeline(2, free_pairs(placed)).after("deal-sections")


def six_digits(value: float) -> float:
    """A penalty in the digits that a pipeline's text shows."""
    return float(f"{value:.6g}")


def hold_codes(
    placed: Module, lambda_: float, ratio: float, grades: tuple[float, ...], context: Context
) -> tuple[Module, list[PassRecord]]:
    """Rows matched and codes held at one penalty."""
    quiet = Options(verify_each=False, count_each=False)
    run = run_pipeline(placed, hold_steps(placed, lambda_, ratio, grades, is_wide(context)), context, quiet)
    return run.module, run.records
