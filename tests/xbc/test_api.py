"""The public API: it does what the command line does, shows itself briefly, and raises XbcError only."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import xbc
from ir.stages import Sectioned
from xbc.driver.door import fits, types_of

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "digits_cnn.onnx"
FUNCTIONS = [name for name in xbc.__all__ if inspect.isfunction(getattr(xbc, name))]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> xbc.Compiled:
    folder = tmp_path_factory.mktemp("api")
    return xbc.compile_model(
        MODEL, folder / "digits.xbc", settings={"crossbars": 4}, pipeline=(
            "quantize,encode-signs,slice-bits,form-sections,sort-sections,deal-sections,"
            "stick-bits{columns=3,fraction=0.5}"
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    with np.load(ROOT / "models" / "digits_eval.npz") as data:
        return {name: data[name][:40] for name in data.files}


def command(*arguments: object) -> Any:
    """The JSON of a command."""
    from xbc.cli.main import cli

    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def without_peak(facts: Any) -> Any:
    return json.loads(
        json.dumps(
            {k: v for k, v in facts.items() if k not in ("peak_rss_bytes", "notes", "seconds_per_sample")}
        )
    )


def test_the_names_are_there_and_nothing_else() -> None:
    assert dir(xbc) == sorted(xbc.__all__)
    assert all(getattr(xbc, name).__doc__ for name in xbc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compile'"):
        xbc.compile  # noqa: B018


def test_as_the_command_line(compiled: xbc.Compiled, samples: dict[str, Any], tmp_path: Path) -> None:
    folder = compiled.directory
    data = tmp_path / "set.npz"
    np.savez(data, **samples)
    found = xbc.evaluate_program(folder, samples, model=MODEL)
    assert without_peak(found) == without_peak(command("evaluate", folder, "--data", data, "--model", MODEL))
    assert found["reference_is"] == "model"
    again = xbc.evaluate_program(xbc.Program.open(folder), data, model=MODEL.read_bytes())
    assert without_peak(again) == without_peak(found)

    rough = {"converters.adc_bits": 4}
    found = xbc.evaluate_program(folder, samples, fidelity="converters", settings=rough, threads=1)
    words = ("--fidelity", "converters", "--set", "converters.adc_bits=4", "--threads", 1)
    assert without_peak(found) == without_peak(command("evaluate", folder, "--data", data, *words))

    (point,) = xbc.sweep_program(folder, ["converters.adc_bits=4"], samples).points
    assert point.score == found["compiled"]
    outputs = xbc.simulate_program(folder, {"image": samples["image"]}, fidelity="converters", settings=rough)
    top = np.argmax(next(iter(outputs.outputs.values())), axis=1)
    assert np.mean(top == samples["labels"]) == found["compiled"]

    assert xbc.wear_program(folder) == command("wear", folder)
    assert xbc.verify_program(folder).facts == {
        k: v for k, v in command("verify", folder).items() if k not in ("ok", "found", "problems")
    }
    page = xbc.report_programs([folder], tmp_path / "a.html", tradeoff=False)
    said = command("report", folder, "-o", tmp_path / "b.html", "--no-trade-off")
    assert json.loads(json.dumps(page["programs"])) == said["programs"]


def test_models_from_memory(tmp_path: Path) -> None:
    given: list[Any] = [MODEL, MODEL.read_bytes(), onnx.load(MODEL)]
    stored = [
        xbc.compile_model(each, tmp_path / f"{n}.xbc", level=1).directory / "writes.parquet"
        for n, each in enumerate(given)
    ]
    assert len({file.read_bytes() for file in stored}) == 1
    with pytest.raises(xbc.XbcError, match="not an ONNX model"):
        xbc.compile_model(b"\x00\x01", tmp_path / "out.xbc")


def test_tables_as_arrays(compiled: xbc.Compiled) -> None:
    """Replayed by nobody: the arrays alone tell the totals and the worst cell."""
    program = compiled.program
    totals = program.manifest["totals"]
    loads, sections = program.arrays("loads"), program.arrays("sections")
    for inference in ("first", "steady"):
        writes = program.arrays("writes", inference)
        assert len(writes["row"]) == totals[inference]["writes"]
        cells = np.ravel_multi_index(
            (writes["crossbar"], writes["row"], writes["column"]),
            (program.target.crossbars, program.target.rows, program.target.columns),
        )
        if inference == "steady":
            assert np.bincount(cells).max() == compiled.summary["wear"]["max"]
        assert np.array_equal(writes["step"], loads["step"][writes["load"]])
        assert np.array_equal(writes["layer"], sections["layer"][loads["section"][writes["load"]]])
        names = {layer.name for layer in compiled.module.layers}
        assert set(writes["layer_name"]) <= names
    body = compiled.module.layers[0].at(Sectioned)
    found = sections["inputs"][sections["layer"] == 0]
    assert sorted(found.tolist()) == sorted(body.inputs.tolist())
    table = program.table("writes")
    assert isinstance(table, pa.Table)
    assert table.num_rows == totals["write_rows"]
    with pytest.raises(xbc.XbcError, match="unknown table 'rows'"):
        program.table("rows")  # type: ignore[arg-type]
    with pytest.raises(xbc.XbcError, match="for the table of writes"):
        program.table("loads", "steady")


def test_readback_and_resume(compiled: xbc.Compiled, tmp_path: Path) -> None:
    from xbc.recovery.readback import expected_levels

    program = compiled.program
    levels = expected_levels(program, 20, "first")
    assert xbc.readback_program(program, levels, load=20, inference="first")["cells_deviating"] == 0
    levels[0, 3, 4] ^= 1
    found = xbc.readback_program(program, levels, load=20, inference="first", repair=tmp_path / "fix.parquet")
    assert [(cell["row"], cell["column"]) for cell in found["cells"]] == [(3, 4)]
    assert (tmp_path / "fix.parquet").is_file()
    levels[0, 3, 4] ^= 1
    rest = xbc.resume_program(program, tmp_path / "rest", levels=levels, inference="first")
    assert rest["loads_done"] == 21
    with pytest.raises(xbc.XbcError, match="needs a journal, levels, or both"):
        xbc.resume_program(program, tmp_path / "rest")


def test_sensitivities_and_rescaling(samples: dict[str, Any], tmp_path: Path) -> None:
    graded = xbc.measure_sensitivities(MODEL, samples, tmp_path / "s.npz", limit=20)
    assert graded.facts["samples"] == 20
    assert sum(row["share"] for row in graded.facts["layers"]) == pytest.approx(1)
    text = "quantize,encode-signs,slice-bits,form-sections,deal-sections,select-write-verify{fraction=0.1}"
    xbc.compile_model(MODEL, tmp_path / "a.xbc", pipeline=text, sensitivities=tmp_path / "s.npz")
    facts = xbc.rescale_model(onnx.load(MODEL), tmp_path / "even.onnx")
    assert facts["weight_spread"][1] < facts["weight_spread"][0]


def test_what_is_shown_is_short(compiled: xbc.Compiled) -> None:
    shown: list[Any] = [compiled, compiled.program, compiled.module, compiled.module.layers[0],
             xbc.verify_program(compiled.directory)]  # fmt: skip
    for each in shown:
        assert len(repr(each)) < 200
        page = each._repr_html_()
        assert page.startswith("<table>")
        assert page.count("<tr>") == page.count("</tr>") > 1
        assert len(page) < 10_000
    assert "writes per inference" in repr(compiled)
    assert "sound" in repr(shown[-1])


def test_html_is_escaped_and_bounded() -> None:
    from ir.display import html_table

    page = html_table("<b>", ("a&b",), [("<script>",)] * 100)
    assert "<script>" not in page
    assert "and 40 more" in page
    assert page.count("&lt;script&gt;") == 60


# -- only XbcError -----------------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None,
    5,
    -1,
    2.5,
    float("nan"),
    True,
    b"\xff",
    "",
    "nowhere",
    "a\0b",
    [],
    [None],
    {},
    {1: 2},
    object(),
]


def wrong_calls(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Every parameter of a function with every wrong value, the others as they should be."""
    function = getattr(xbc, name)
    hints = types_of(function)
    return [
        (parameter, {parameter: value})
        for parameter in inspect.signature(function).parameters
        for value in WRONG
        if not fits(value, hints[parameter])
    ]


@pytest.fixture
def right(compiled: xbc.Compiled, samples: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Arguments that are in order, by function."""
    out = tmp_path / "out"
    program = {"program": compiled.directory}
    return {
        "compile_model": {"model": MODEL, "output": out},
        "emit_program": {
            "module": compiled.module,
            "host": onnx.ModelProto(),
            "directory": out,
            "provenance": {},
            "counts": {},
        },
        "evaluate_program": {**program, "data": samples},
        "export_program": {**program, "format_name": "csv", "output": out},
        "import_model": {"path": MODEL, "target": xbc.load_target("gather-128")},
        "list_targets": {},
        "load_module": {"path": compiled.directory / "program.xir"},
        "load_target": {"name_or_path": "gather-128"},
        "measure_sensitivities": {"model": MODEL, "data": samples},
        "module_facts": {"module": compiled.module},
        "parse_module": {"text": ""},
        "parse_pipeline": {"text": "quantize"},
        "print_module": {"module": compiled.module},
        "readback_program": {**program, "levels": np.zeros((4, 128, 8), np.uint8)},
        "report_programs": {"programs": [compiled.directory], "output": out},
        "rescale_model": {"model": MODEL, "output": out},
        "resume_program": {**program, "output": out},
        "run_pipeline": {"module": compiled.module, "passes": []},
        "save_module": {"module": compiled.module, "path": out},
        "simulate_program": {**program, "inputs": {"image": samples["image"]}},
        "sweep_program": {**program, "over": ["converters.adc_bits=4"], "data": samples},
        "update_program": {"deployed": compiled.directory, "model": MODEL, "output": out},
        "verify_program": {"folder": compiled.directory},
        "wear_program": program,
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_type_is_named(name: str, right: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    function: Callable[..., Any] = getattr(xbc, name)
    calls = wrong_calls(name)
    assert calls or name == "list_targets"
    for parameter, wrong in calls:
        with pytest.raises(xbc.XbcError) as error:
            function(**{**right[name], **wrong})
        assert f"{name}: {parameter} = " in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) <= 300
    with pytest.raises(xbc.XbcError, match="unexpected keyword argument 'colour'"):
        function(**right[name], colour=1)
    assert not list(tmp_path.iterdir()), "nothing is left half-written"


PATHS = [
    "program",
    "model",
    "data",
    "output",
    "folder",
    "directory",
    "deployed",
    "path",
    "levels",
    "journal",
    "inputs",
]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("path", ["", "nowhere", "no/where", "a\0b", ".", "x" * 5000])
def test_a_wrong_path_is_named(
    name: str, path: str, right: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    function: Callable[..., Any] = getattr(xbc, name)
    for parameter in set(inspect.signature(function).parameters) & set(PATHS):
        if parameter in ("output", "directory") and path in ("nowhere", "."):
            continue  # there one can write
        if name == "save_module" and path == "nowhere":
            continue
        with pytest.raises(xbc.XbcError):
            function(**{**right[name], parameter: path})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("compile_model", {"seed": -1}),
        ("compile_model", {"threads": 0}),
        ("compile_model", {"level": 9}),
        ("compile_model", {"outputs": -2}),
        ("compile_model", {"spare": float("nan")}),
        ("compile_model", {"target": "nowhere"}),
        ("compile_model", {"settings": {"crossbar": 2}}),
        ("compile_model", {"settings": {1: 2}}),
        ("evaluate_program", {"limit": 0}),
        ("evaluate_program", {"batch": 0}),
        ("evaluate_program", {"memory": "much"}),
        ("evaluate_program", {"memory": "2GB", "batch": 2}),
        ("evaluate_program", {"blame": True}),
        ("evaluate_program", {"settings": {"converters.adc_bits": 4}}),
        ("evaluate_program", {"fidelity": "converters", "settings": {"rows": 4}}),
        ("evaluate_program", {"fidelity": "perfect"}),
        ("evaluate_program", {"data": {"image": np.zeros((2, 3))}}),
        ("evaluate_program", {"data": {"image": np.array([object()])}}),
        ("evaluate_program", {"data": {"picture": np.zeros(3), "labels": np.zeros(3, int), "more": np.zeros(1)}}),
        ("evaluate_program", {"output": "nothing"}),
        ("export_program", {"format_name": "xml"}),
        ("export_program", {"loads": 0}),
        ("export_program", {"loads": 10**9}),
        ("export_program", {"inferences": ("second",)}),
        ("readback_program", {"levels": np.zeros((1, 2, 3))}),
        ("readback_program", {"load": 10**9}),
        ("report_programs", {"programs": []}),
        ("sweep_program", {"over": ["converters.adc_bits"]}),
        ("sweep_program", {"over": []}),
        ("update_program", {"threshold": 0.0}),
        ("measure_sensitivities", {"noise": -1.0}),
        ("load_target", {"settings": {"rows": 0}}),
        ("rescale_model", {"output": "."}),
        ("measure_sensitivities", {"output": "."}),
        ("report_programs", {"output": "."}),
        ("readback_program", {"repair": "."}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name: str, wrong: dict[str, Any], right: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(xbc.XbcError):
        getattr(xbc, name)(**{**right[name], **wrong})


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)


@settings(max_examples=200)
@given(st.recursive(ATOMS, nested))
def test_types_are_told_apart(value: Any) -> None:
    """One annotation fits exactly the values of its type."""
    assert fits(value, int) == (type(value) is int)
    assert fits(value, bool) == (type(value) is bool)
    assert fits(value, float) == (type(value) in (int, float))
    assert fits(value, int | None) == (value is None or type(value) is int)
    assert fits(value, list[str]) == (type(value) is list and all(type(v) is str for v in value))
    assert fits(value, dict[str, int]) == (
        type(value) is dict and all(type(v) is int for v in value.values())
    )
    assert fits(value, typing.Literal["a", 1]) == (type(value) in (str, int) and value in ("a", 1))


def test_import_beside_a_checkout_of_that_name(tmp_path: Path) -> None:
    """A folder named xbc beside the script hides nothing when it is a checkout: its own xbc is imported."""
    (tmp_path / "xbc").symlink_to(ROOT, target_is_directory=True)
    code = "import xbc; print(xbc.Target.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "Target", done.stderr
