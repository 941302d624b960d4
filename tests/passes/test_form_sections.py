"""form-sections and sort-sections: every weight placed once; what rank and stratified cuts mean."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import UNUSED, Programmed, Sectioned, XbcError, check_module
from passes.counting import count_module, natural_module
from passes.manager import finish
from passes.sections import cut_outputs, output_blocks
from tests.passes.small import assert_each_weight_once, compiled, module, random_codes, target

FORM = "encode-signs,slice-bits,form-sections"


@st.composite
def layers(draw: Any) -> Any:
    """A module of one coded layer on a random small chip."""
    encoding = draw(st.sampled_from(["driver", "split", "differential", "offset", "twos-complement"]))
    groups = draw(st.integers(1, 3))
    share = 1 if encoding == "driver" else draw(st.integers(1, 3))
    chip = target(
        rows=draw(st.integers(1, 5)), columns=16, encoding=encoding, outputs_per_section=share,
        routing=draw(st.sampled_from(["gather", "block"])), bits_per_cell=draw(st.integers(1, 2)),
    )  # fmt: skip
    shape = groups * draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return module([random_codes(rng, shape, 4)], chip, groups)


SORTS = ["", *(f",sort-sections{{by={by},cut={cut}}}" for by in ("magnitude", "value")
               for cut in ("rank", "stratified", "auto"))]  # fmt: skip
SPARE = [f",sort-sections{{cut={cut},spare={spare}}}" for cut in ("rank", "stratified") for spare in (0.5, 2)]


@given(given_module=layers(), sort=st.sampled_from(SORTS + SPARE))
def test_every_weight_stands_in_one_section(given_module: Any, sort: Any) -> None:
    if given_module.target.routing == "block" and "spare" in sort:
        with pytest.raises(XbcError, match="block routing, which fixes what a section holds"):
            compiled(FORM + sort, given_module)
        return
    done = compiled(FORM + sort, given_module)
    check_module(done)
    layer = done.layers[0]
    body = layer.at(Sectioned)
    assert_each_weight_once(body)
    per_group = body.shape[0] // layer.origin.groups
    for s in range(body.sections):
        used = body.outputs[s][body.outputs[s] >= 0]
        assert len(set(used // per_group)) == 1, "outputs of two groups share rows"
        driven = body.inputs[s][body.inputs[s] >= 0]
        assert len(driven) > 0
        if done.target.routing == "block":
            assert len(set(driven // done.target.rows)) == 1, "a section mixes two blocks of inputs"


@given(given_module=layers())
def test_sorting_needs_no_more_sections(given_module: Any) -> None:
    natural = compiled(FORM, given_module).layers[0].at(Sectioned)
    for cut in ("rank", "stratified"):
        body = compiled(FORM + f",sort-sections{{cut={cut}}}", given_module).layers[0].at(Sectioned)
        assert body.sections == natural.sections


@given(given_module=layers(), most=st.integers(1, 3), sort=st.sampled_from(SORTS))
def test_fewer_outputs_share_rows(given_module: Any, most: Any, sort: Any) -> None:
    allowed = given_module.target.outputs_per_section
    form = FORM.replace("form-sections", f"form-sections{{outputs={most}}}")
    if most > allowed:
        with pytest.raises(
            XbcError, match=f"outputs = {most}, but on target .* at most {allowed} outputs share"
        ):
            compiled(form, given_module)
        return
    done = compiled(form + sort + ",deal-sections", given_module)
    check_module(done)
    body = done.layers[0].at(Sectioned)
    assert_each_weight_once(body)
    assert body.group_width <= most
    wide = compiled(FORM + ",deal-sections", given_module)
    # Where outputs stand alone, split divides the list of inputs by sign; where they share rows, it loads them twice.
    if given_module.target.encoding != "split":
        assert body.sections >= wide.layers[0].at(Sectioned).sections
    baseline = [count_module(natural_module(m)).steady for m in (done, wide)]
    assert baseline[0] == baseline[1], "the baseline moved"


@pytest.mark.parametrize("encoding", ["driver", "split"])
def test_no_spare_section_is_empty(encoding: Any) -> None:
    """Four weights in three sections of equal runs: two by two, and nothing is left for the third."""
    chip = target(rows=2, columns=16, encoding=encoding)
    for spare in (0.5, 1, 2):
        given_module = module([[[1, 2, 6, 9]]], chip)
        body = (
            compiled(FORM + f",sort-sections{{cut=rank,spare={spare}}}", given_module).layers[0].at(Sectioned)
        )
        assert (body.inputs >= 0).any(axis=1).all()
        assert_each_weight_once(body)


def test_negative_outputs_are_refused() -> None:
    with pytest.raises(XbcError, match=r"outputs = -1 must not be negative"):
        compiled(
            FORM.replace("form-sections", "form-sections{outputs=-1}"),
            module([np.ones((2, 2), int)], target()),
        )


def test_natural_sections_by_hand() -> None:
    chip = target(rows=2, columns=16, encoding="twos-complement", outputs_per_section=2)
    body = compiled(FORM, module([np.arange(9).reshape(3, 3)], chip)).layers[0].at(Sectioned)
    assert body.outputs.tolist() == [[0, 1], [0, 1], [2, UNUSED], [2, UNUSED]]
    assert body.inputs.tolist() == [[0, 1], [2, UNUSED], [0, 1], [2, UNUSED]]
    assert body.rank.tolist() == [0, 1, 0, 1]


def test_columns_limit_the_outputs_that_share_rows() -> None:
    chip = target(rows=2, columns=20, encoding="twos-complement", outputs_per_section=16)
    body = compiled(FORM, module([np.ones((5, 2), int)], chip)).layers[0].at(Sectioned)
    assert body.group_width == 2


def test_depthwise_outputs_never_share_rows() -> None:
    chip = target(rows=4, columns=16, encoding="twos-complement", outputs_per_section=2)
    body = compiled(FORM, module([np.ones((6, 3), int)], chip, groups=6)).layers[0].at(Sectioned)
    assert body.outputs.tolist() == [[o] for o in range(6)]


def test_split_sections_hold_one_sign() -> None:
    chip = target(rows=2, encoding="split")
    body = compiled(FORM, module([[[5, -1, 2, -3, 4], [1, 2, 3, 4, 5]]], chip)).layers[0].at(Sectioned)
    table = sorted(zip(body.outputs[:, 0], body.polarity, body.inputs.tolist(), strict=True), key=str)
    assert sorted((int(o), int(p), i) for o, p, i in table) == [
        (0, -1, [1, 3]), (0, 1, [0, 2]), (0, 1, [4, UNUSED]),
        (1, 1, [0, 1]), (1, 1, [2, 3]), (1, 1, [4, UNUSED]),
    ]  # fmt: skip


def sections_of(codes: Any, options: Any, **chip: Any) -> Any:
    given_module = module([codes], target(**{"rows": 2, **chip}))
    body = compiled(f"{FORM},sort-sections{{{options}}}", given_module).layers[0].at(Sectioned)
    codes = np.asarray(codes)
    return [codes[o[0], i[i >= 0]].tolist() for o, i in zip(body.outputs, body.inputs, strict=True)]


def test_example_of_the_manual() -> None:
    assert sections_of([[3, 200, 7, 180]], "cut=rank") == [[200, 180], [7, 3]]
    assert sections_of([[3, 200, 7, 180]], "cut=stratified") == [[200, 7], [180, 3]]


def test_value_sorts_by_sign_magnitude_does_not() -> None:
    assert sections_of([[3, -200, 7, 180]], "by=value,cut=rank") == [[180, 7], [3, -200]]
    assert sections_of([[3, -200, 7, 180]], "by=magnitude,cut=rank") == [[-200, 180], [7, 3]]


def test_sections_of_one_rank_stand_together() -> None:
    assert sections_of([[1, 2, 3], [6, 5, 4]], "cut=rank") == [[3, 2], [6, 5], [1], [4]]
    assert sections_of([[1, 2, 3], [6, 5, 4]], "cut=stratified") == [[3, 1], [6, 4], [2], [5]]


def test_block_routing_sorts_inside_the_block() -> None:
    assert sections_of([[1, 9, 2, 8]], "cut=rank", routing="block") == [[9, 1], [8, 2]]


def test_shared_rows_are_sorted_by_the_sum_of_magnitudes() -> None:
    chip = target(rows=1, columns=16, encoding="twos-complement", outputs_per_section=2)
    given_module = module([[[1, -9, 3], [1, 2, -9]]], chip)
    body = compiled(f"{FORM},sort-sections{{cut=rank}}", given_module).layers[0].at(Sectioned)
    assert body.inputs[:, 0].tolist() == [2, 1, 0]


@given(given_module=layers(), seed=st.integers(0, 2**32 - 1))
def test_rank_and_stratified_hold_their_promise(given_module: Any, seed: int) -> None:
    for cut in ("rank", "stratified"):
        body = compiled(f"{FORM},sort-sections{{cut={cut}}}", given_module).layers[0].at(Sectioned)
        if given_module.target.routing == "block" or body.group_width > 1:
            continue
        for o in range(body.shape[0]):
            for polarity in (-1, 0, 1):
                mine = np.flatnonzero((body.outputs[:, 0] == o) & (body.polarity == polarity))
                held = [abs(body.codes[o, body.inputs[s][body.inputs[s] >= 0]]) for s in mine]
                assert body.rank[mine].tolist() == list(range(len(mine)))
                if cut == "rank":
                    flat = np.concatenate(held) if held else np.zeros(0)
                    assert (np.diff(flat) <= 0).all()
                    assert all(len(h) == body.rows for h in held[:-1])
                elif held:
                    flat = -np.sort(-np.concatenate(held))
                    for k, h in enumerate(held):
                        assert h.tolist() == flat[k :: len(held)].tolist()


def test_spare_sections_cost_reads_and_save_writes() -> None:
    rng = np.random.default_rng(1)
    given_module = module([random_codes(rng, (16, 40)), random_codes(rng, (16, 40))], target(rows=16))
    found = []
    for spare in (0, 0.5, 1):
        text = f"{FORM},sort-sections{{cut=stratified,spare={spare}}},order-sections,deal-sections,match-rows"
        done = compiled(text, given_module)
        found.append((done.layers[0].at(Sectioned).sections, count_module(done).steady.total))
    assert [sections for sections, _ in found] == [48, 80, 96]
    assert found[0][1] > found[1][1] > found[2][1]
    with pytest.raises(XbcError, match=r"spare = 9\.0 is outside 0\.\.8"):
        compiled(FORM + ",sort-sections{spare=9}", given_module)


def test_fixed_routing_is_refused() -> None:
    with pytest.raises(XbcError, match=r"fixed routing.*routing=gather"):
        sections_of([[1, 2]], "", routing="fixed")


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 4),
    st.sampled_from(["rank", "stratified"]), st.sampled_from([0.0, 0.5, 1.0, 2.5]),
)  # fmt: skip
def test_cut_outputs_with_spare_sections(lengths: Any, rows: Any, cut: Any, spare: Any) -> None:
    order = np.tile(np.arange(9, dtype=np.int32), (len(lengths), 1))
    inputs, source, rank = cut_outputs(order, np.array(lengths), rows, cut, spare)
    for i, length in enumerate(lengths):
        mine = inputs[source == i]
        assert sorted(mine[mine >= 0].tolist()) == list(range(length))
        fewest = -(-length // rows)
        assert fewest <= len(mine) <= min(fewest + int(fewest * spare + 0.5), length)
        assert rank[source == i].tolist() == list(range(len(mine)))


def test_output_blocks_by_hand() -> None:
    assert output_blocks(6, 2, 2).tolist() == [[0, 1], [2, UNUSED], [3, 4], [5, UNUSED]]


LAYER = FORM + "{scope=layer}"
FLAT_SORTS = ["", *SPARE, *(f",sort-sections{{by={by},cut={cut},max-outputs={most}}}" for by in ("magnitude", "value")
                    for cut in ("rank", "stratified", "auto") for most in (0, 1, 2))]  # fmt: skip


@st.composite
def gated_layers(draw: Any) -> Any:
    """A module of one coded layer on a small chip with row gating."""
    encoding = draw(st.sampled_from(["driver", "split", "differential", "offset", "twos-complement"]))
    groups = draw(st.integers(1, 3))
    chip = target(rows=draw(st.integers(1, 5)), columns=16, encoding=encoding, row_gating=True, crossbars=2)
    shape = groups * draw(st.integers(1, 4)), draw(st.integers(1, 12))
    return module(
        [random_codes(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), shape, 4)], chip, groups
    )


@given(given_module=gated_layers(), sort=st.sampled_from(FLAT_SORTS))
def test_the_flattened_layer_is_cut_whole(given_module: Any, sort: Any) -> None:
    done = compiled(LAYER + sort, given_module)
    check_module(done)
    body = done.layers[0].at(Sectioned)
    places = np.zeros((*body.shape, 3), int)
    for s in range(body.sections):
        for r in np.flatnonzero(body.inputs[s] >= 0):
            places[body.row_outputs[s, r], body.inputs[s, r], body.polarity[s] + 1] += 1  # type: ignore[index]
    assert (places.sum(axis=2) == 1).all()
    most = int(sort.partition("max-outputs=")[2].rstrip("}") or 0)
    if most:
        assert body.read_phases().max() <= most


@given(given_module=gated_layers(), sort=st.sampled_from(FLAT_SORTS))
def test_the_flattened_layer_computes_the_same(given_module: Any, sort: Any) -> None:
    text = f"{LAYER}{sort},order-sections,deal-sections,match-rows"
    done = finish(compiled(text, given_module))
    check_module(done)
    body = done.layers[0].at(Programmed)
    np.testing.assert_array_equal(body.effective_codes(), body.codes)


def test_flattened_sections_are_alike_and_few() -> None:
    rng = np.random.default_rng(3)
    chip = target(rows=16, row_gating=True)
    flat = (
        compiled(LAYER + ",sort-sections", module([random_codes(rng, (12, 40))], chip))
        .layers[0]
        .at(Sectioned)
    )
    own = (
        compiled(FORM + ",sort-sections", module([random_codes(rng, (12, 40))], chip)).layers[0].at(Sectioned)
    )
    assert flat.sections == 30
    assert own.sections == 36
    spread = [np.sort(np.abs(b.section_codes()[:, :, 0]), axis=1).std(axis=0).mean() for b in (flat, own)]
    assert spread[0] < spread[1] / 1.5


def test_weights_of_equal_size_stay_with_their_output() -> None:
    chip = target(rows=2, row_gating=True)
    body = compiled(LAYER + ",sort-sections", module([np.ones((4, 4), int)], chip)).layers[0].at(Sectioned)
    assert body.read_phases().tolist() == [1] * 8
    assert body.outputs[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_flattened_sections_in_natural_order_by_hand() -> None:
    chip = target(rows=4, row_gating=True)
    body = compiled(LAYER, module([np.arange(9).reshape(3, 3)], chip)).layers[0].at(Sectioned)
    assert body.row_outputs is not None
    assert body.row_outputs.tolist() == [[0, 0, 0, 1], [1, 1, 2, 2], [2, UNUSED, UNUSED, UNUSED]]
    assert body.inputs.tolist() == [[0, 1, 2, 0], [1, 2, 0, 1], [2, UNUSED, UNUSED, UNUSED]]
    assert body.outputs.tolist() == [[0], [1], [2]]
    assert body.read_phases().tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "has row_gating = false: set row_gating=true or use scope=output"),
        ({"row_gating": True, "routing": "block"}, "has routing = 'block': set routing=gather"),
        (
            {"row_gating": True, "outputs_per_section": 2, "encoding": "split"},
            "has outputs_per_section = 2: set outputs_per_section=1",
        ),
    ],
)
def test_targets_that_cannot_gate_rows_are_refused(fields: Any, words: Any) -> None:
    with pytest.raises(XbcError, match=words):
        compiled(LAYER, module([np.ones((2, 2), int)], target(**fields)))


def test_max_outputs_needs_the_flattened_layer() -> None:
    with pytest.raises(XbcError, match=r"hold one output each: use form-sections\{scope=layer\}"):
        compiled(FORM + ",sort-sections{max-outputs=4}", module([np.ones((2, 2), int)], target()))
    with pytest.raises(XbcError, match="max-outputs = -1 must not be negative"):
        compiled(FORM + ",sort-sections{max-outputs=-1}", module([np.ones((2, 2), int)], target()))
