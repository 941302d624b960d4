"""Rules of ``axis_table``: where an operator's outputs have the samples that its inputs hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xbc.simulate.axes import Along, Fixed, Lost, MixedError, Site, State, UntoldError

Rule = Callable[[Site], list[State]]


def _same(states: Sequence[Along]) -> Along:
    if len(set(states)) != 1:
        raise MixedError
    return states[0]


def _each(state: Along, site: Site) -> list[State]:
    return [state for _ in site.node.output]


def elementwise(site: Site) -> list[State]:
    """Numpy broadcasting."""
    rank = site.out_rank()
    placed = [Along(s.axis + rank - site.rank(i), s.outer, s.inner) for i, s in site.along().items()]
    state = _same(placed)
    site.only(*site.along())
    for i, other in enumerate(site.states):
        if isinstance(other, Fixed):
            at = state.axis - rank + site.rank(i)
            if at >= 0 and any(dims[i][at] != 1 for dims in site.dims):
                raise MixedError
    return _each(state, site)


def unary(site: Site) -> list[State]:
    """The first input decides, the others are settings."""
    site.only(0)
    return _each(_first(site), site)


def _first(site: Site) -> Along:
    state = site.states[0]
    if not isinstance(state, Along):
        raise UntoldError
    return state


def first_axis(site: Site) -> list[State]:
    """Works on every entry of the first axis by itself."""
    if any(s.axis != 0 for s in site.along().values()):
        raise MixedError
    site.only(*site.along())
    return _each(_same(list(site.along().values())), site)


def image(*operands: int) -> Rule:
    """``first_axis`` with samples in these operands only."""

    def rule(site: Site) -> list[State]:
        site.only(*operands)
        return first_axis(site)

    return rule


def max_pool(site: Site) -> list[State]:
    """MaxPool: its indices count over all samples."""
    (state, *_) = image(0)(site)
    return [state, Lost(f"the indices of {site.node.op_type} count over all of them")][
        : len(site.node.output)
    ]


def resized(site: Site) -> list[State]:
    """Resize and its like: sizes may count the samples."""
    state = _first(site)
    if any(isinstance(s, Along) for s in site.states[1:]):
        raise UntoldError
    if state.axis > 1:
        raise MixedError
    return [state]


def matmul(left: int, right: int) -> Rule:
    """Numpy's matmul of two operands; others must broadcast over its result or be settings."""

    def rule(site: Site) -> list[State]:
        site.only(left, right)
        rank = site.out_rank()
        states: list[Along] = []
        for index, contracted, other in ((left, 1, right), (right, 2, left)):
            state = site.states[index]
            if not isinstance(state, Along):
                continue
            mine, its = site.rank(index), site.rank(other)
            back = mine - state.axis  # 1: the last axis
            if mine == 1 or back == contracted:
                raise MixedError
            if its == 1 and back <= 2:
                axis = rank - 1
            elif its == 1:
                axis = rank + 1 - back
            else:
                axis = rank - back
            stacked = back > 2 and its >= back and isinstance(site.states[other], Fixed)
            if stacked and any(dims[other][its - back] != 1 for dims in site.dims):
                raise MixedError
            states.append(Along(axis, state.outer, state.inner))
        state = _same(states)
        if len(states) == 2 and state.axis >= rank - 2:
            raise MixedError
        return _each(state, site)

    return rule


def gemm(left: int, right: int, summand: int = -1) -> Rule:
    """A product of two matrices that may be transposed, plus a summand that broadcasts."""

    def rule(site: Site) -> list[State]:
        site.only(left, right, summand)
        placed = []
        for index, name, row in ((left, "transA", 0), (right, "transB", 1)):
            state = site.states[index]
            if isinstance(state, Along):
                kept = row if not site.attr(name, 0) else 1 - row
                if state.axis != kept:
                    raise MixedError
                placed.append(Along(row, state.outer, state.inner))
        rank = 2
        if 0 <= summand < len(site.states):
            extra = site.states[summand]
            if isinstance(extra, Along):
                placed.append(Along(extra.axis + rank - site.rank(summand), extra.outer, extra.inner))
            elif extra is not None and placed:
                at = placed[0].axis - rank + site.rank(summand)
                if at >= 0 and any(dims[summand][at] != 1 for dims in site.dims):
                    raise MixedError
        return _each(_same(placed), site)

    return rule


def fused_matmul(site: Site) -> list[State]:
    """FusedMatMul: like matmul with the last two axes of a factor swapped."""
    if any(site.attr(name, 0) for name in ("transBatchA", "transBatchB")):
        raise UntoldError
    states, dims = list(site.states), [list(d) for d in site.dims]
    for index, name in ((0, "transA"), (1, "transB")):
        if site.attr(name, 0) and site.rank(index) > 1:
            state, rank = states[index], site.rank(index)
            if isinstance(state, Along) and state.axis >= rank - 2:
                states[index] = Along(2 * rank - 3 - state.axis, state.outer, state.inner)
            for shapes in dims:
                shapes[index] = (*shapes[index][:-2], shapes[index][-1], shapes[index][-2])
    return matmul(0, 1)(Site(site.node, site.samples, states, dims, site.made, site.values, site.opset))


def reshape(site: Site) -> list[State]:
    """Row-major reading of the same values: axes in front of the samples and behind them keep their product."""
    state = _first(site)
    if any(isinstance(s, Along) for s in site.states[1:]):
        raise UntoldError
    found: set[Along] = set()
    for axis in range(site.out_rank()):
        placed = set()
        for samples, dims, made in zip(site.samples, site.dims, site.made, strict=True):
            before = math.prod(dims[0][: state.axis]) * state.outer
            behind = math.prod(dims[0][state.axis + 1 :]) * state.inner
            front, rear = math.prod(made[0][:axis]), math.prod(made[0][axis + 1 :])
            fits = front and rear and before % front == 0 and behind % rear == 0
            if fits and made[0][axis] == before // front * samples * (behind // rear):
                placed.add(Along(axis, before // front, behind // rear))
            else:
                placed.add(Along(-1))
        if len(placed) == 1 and Along(-1) not in placed:
            found |= placed
    if len(found) > 1:
        raise UntoldError
    if not found:
        raise MixedError
    return [found.pop()]


def _axes(site: Site, operand: int, rank: int) -> list[int]:
    given = site.attr("axes")
    if given is None and operand < len(site.states):
        given = site.value(operand)
    if not given:
        return [] if site.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in given]


def reduce(site: Site) -> list[State]:
    """Sums and their like over some axes."""
    site.only(0)
    state, rank = _first(site), site.rank(0)
    axes = _axes(site, 1, rank)
    if state.axis in axes:
        raise MixedError
    gone = 0 if site.attr("keepdims", 1) else sum(axis < state.axis for axis in axes)
    return [Along(state.axis - gone, state.outer, state.inner)]


def arg_reduce(site: Site) -> list[State]:
    """ArgMax, ArgMin."""
    state, axis = _first(site), site.attr("axis", 0) % site.rank(0)
    if state.axis == axis:
        raise MixedError
    gone = int(not site.attr("keepdims", 1) and axis < state.axis)
    return [Along(state.axis - gone, state.outer, state.inner)]


def one_axis(default: int, operand: int = -1) -> Rule:
    """Works along one axis, given by an attribute or an operand."""

    def rule(site: Site) -> list[State]:
        site.only(0)
        value = site.value(operand) if operand >= 0 else None
        axis = value[0] if value else site.attr("axis", default)
        if _first(site).axis == axis % site.rank(0):
            raise MixedError
        return _each(_first(site), site)

    return rule


def softmax(site: Site) -> list[State]:
    """Along one axis; before operator set 13 over all axes from it on."""
    if site.opset >= 13 or site.node.domain:
        return one_axis(-1)(site)
    return normalised(1)(site)


def normalised(default: int = -1) -> Rule:
    """Over all axes from ``axis`` on; further operands are settings or broadcast like the first."""

    def rule(site: Site) -> list[State]:
        state = _same(list(site.along().values()))
        site.only(*site.along())
        if any(site.rank(i) != site.rank(0) for i in site.along()) or not isinstance(site.states[0], Along):
            raise UntoldError
        if state.axis >= site.attr("axis", default) % site.rank(0):
            raise MixedError
        return _each(state, site)

    return rule


def mean_variance(site: Site) -> list[State]:
    """MeanVarianceNormalization."""
    rank = site.rank(0)
    if _first(site).axis in [axis % rank for axis in site.attr("axes", [0, 2, 3])]:
        raise MixedError
    return [_first(site)]


def batch_norm(site: Site) -> list[State]:
    """BatchNormalization."""
    if site.attr("training_mode", 0):
        raise MixedError
    return image(0)(site)


def trilu(site: Site) -> list[State]:
    """Trilu: its matrices lie in the last two axes."""
    if _first(site).axis >= site.rank(0) - 2:
        raise MixedError
    return unary(site)


def dropout(site: Site) -> list[State]:
    """Dropout, which draws numbers in training."""
    if (site.value(2) or [0])[0]:
        raise UntoldError
    return unary(site)


def transpose(site: Site) -> list[State]:
    """Transpose."""
    state, rank = _first(site), site.rank(0)
    order = list(site.attr("perm", range(rank - 1, -1, -1)))
    return [Along(order.index(state.axis), state.outer, state.inner)]


def concat(site: Site) -> list[State]:
    """Concat."""
    state = _same(list(site.along().values()))
    site.only(*site.along())
    if len(site.along()) < len(site.states) or site.attr("axis", 1) % site.rank(0) == state.axis:
        raise MixedError
    return [state]


def slice_(site: Site) -> list[State]:
    """Slice: the samples' axis is left alone or taken whole, in its order."""
    state, rank = _first(site), site.rank(0)
    if any(isinstance(s, Along) for s in site.states[1:]):
        raise UntoldError
    given = site.attr("starts")
    axes = site.attr("axes") if given else site.value(3)
    count = len(given) if given else site.dims[0][1][0]
    steps = None if given else site.value(4)
    for at, axis in enumerate(range(count) if axes is None else axes):
        if axis % rank == state.axis:
            uncut = all(
                m[0][state.axis] == d[0][state.axis] for d, m in zip(site.dims, site.made, strict=True)
            )
            if not uncut or (steps is not None and steps[at] != 1):
                raise MixedError
    return [state]


def gather(site: Site) -> list[State]:
    """Gather: samples in the data or in the indices."""
    axis = site.attr("axis", 0) % site.rank(0)
    data, indices = site.states[0], site.states[1]
    site.only(0, 1)
    if isinstance(data, Along) and isinstance(indices, Fixed):
        if data.axis == axis or indices.counts:
            raise MixedError
        moved = data.axis if data.axis < axis else data.axis + site.rank(1) - 1
        return [Along(moved, data.outer, data.inner)]
    if isinstance(indices, Along) and isinstance(data, Fixed) and not data.counts:
        return [Along(axis + indices.axis, indices.outer, indices.inner)]
    raise MixedError


def pad(site: Site) -> list[State]:
    """Pad: nothing is added to the samples' axis."""
    state, rank = _first(site), site.rank(0)
    if any(isinstance(s, Along) for s in site.states[1:]):
        raise UntoldError
    pads = list(site.attr("pads") or site.value(1) or [])
    axes = site.value(3) or range(rank)
    for at, axis in enumerate(axes):
        if axis % rank == state.axis and (pads[at] or pads[at + len(axes)]):
            raise MixedError
    return [state]


def widened(site: Site) -> list[State]:
    """Expand and Tile: the samples' axis keeps its length."""
    state = _first(site)
    if any(isinstance(s, Along) for s in site.states[1:]):
        raise UntoldError
    return [Along(state.axis + site.out_rank() - site.rank(0), state.outer, state.inner)]


def one_hot(site: Site) -> list[State]:
    """OneHot."""
    site.only(0)
    state, axis = _first(site), site.attr("axis", -1) % site.out_rank()
    return [Along(state.axis + (axis <= state.axis), state.outer, state.inner)]


def recurrent(site: Site) -> list[State]:
    """RNN, GRU, LSTM: the batch is the second axis, or the first one with layout=1."""
    first = int(not site.attr("layout", 0))
    places = {0: first, 4: 0, 5: first, 6: first}
    for index, state in site.along().items():
        if places.get(index, -1) != state.axis:
            raise MixedError
    kind = _same([Along(0, s.outer, s.inner) for s in site.along().values()])
    axes = ((2, 1, 1) if first else (0, 0, 0))[: len(site.node.output)]
    return [Along(axis, kind.outer, kind.inner) for axis in axes]


def einsum(site: Site) -> list[State]:
    """Einsum without an ellipsis: the samples' letter stays, and belongs to the inputs with samples only."""
    equation = site.attr("equation").decode().replace(" ", "")
    if "." in equation or "->" not in equation:
        raise UntoldError
    terms, result = equation.split("->")[0].split(","), equation.split("->")[1]
    letters = {terms[i][s.axis] for i, s in site.along().items()}
    if len(letters) != 1:
        raise MixedError
    letter = letters.pop()
    fixed = [term for i, term in enumerate(terms) if i not in site.along()]
    if letter not in result or any(letter in term for term in fixed):
        raise MixedError
    state = _same([Along(result.index(letter), s.outer, s.inner) for s in site.along().values()])
    if any(term.count(letter) != 1 for i, term in enumerate(terms) if i in site.along()):
        raise MixedError
    return [state]


def mixed(site: Site) -> list[State]:
    """Operators whose result depends on all entries."""
    raise MixedError


def split(site: Site) -> list[State]:
    """Split."""
    return one_axis(0)(site)
