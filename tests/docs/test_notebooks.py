"""The notebooks run from top to bottom, and their pages show what they computed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs" / "run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["first-compile", "own-pass"])
def test_notebook(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text, files = runner().run_notebook(ROOT / "docs" / "notebooks" / f"{name}.ipynb", tmp_path, name)
    if name == "first-compile":
        assert "sound: every promise of the program holds" in text
        assert "writes per inference" in text
        assert not files
    else:
        assert "3 bits given up:" in text
        assert list(files) == ["own-pass-0.svg"]
        assert files["own-pass-0.svg"].startswith(b"<?xml")


def test_cells_show_what_notebooks_show() -> None:
    run_cell = runner().run_cell
    scope: dict[str, object] = {}
    assert run_cell("a = 2", "cell", scope) == []
    assert run_cell("print(a)\na + 1", "cell", scope) == ["```text\n2\n```", "```text\n3\n```"]
    with pytest.raises(ZeroDivisionError):
        run_cell("a / 0", "cell", scope)


def test_notebooks_are_stored_without_output() -> None:
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert cells
        assert all(not c["outputs"] and c["execution_count"] is None for c in cells), path.name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python page, block after block; other pages include files that have tests of their own."""
    if page.name != "python.md":
        included = [line for line in page.read_text().splitlines() if line.startswith("--8")]
        assert all(line.startswith('--8<-- "') for line in included), "a marker that includes nothing"
        assert included or not page.name.startswith("guide-"), "a guide shows a whole example"
        assert all((ROOT / line.split('"')[1].partition(":")[0]).is_file() for line in included)
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models", target_is_directory=True)
    scope: dict[str, object] = {}
    for block in page.read_text().split("```python\n")[1:]:
        exec(block.partition("```")[0], scope)
