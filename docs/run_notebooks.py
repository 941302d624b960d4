"""Runs the notebooks of docs/notebooks/ and writes them, with what they print and draw, as pages of the site.

A cell's last expression is shown as a notebook does: ``_repr_html_`` where there is one, else ``repr``; open matplotlib
figures become SVG files.  The notebooks are stored without output, so a page never shows what the code does not do.

    python docs/run_notebooks.py
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE / "notebooks").glob("*.ipynb"))


def run_notebook(notebook: Path, folder: Path, pictures: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook and its pictures by name, run in ``folder`` beside a link to models/.

    Raises: whatever a cell raises, with the cell's number.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "xbc"
    (folder / "models").symlink_to(HERE.parent / "models", target_is_directory=True)
    scope: dict[str, Any] = {"__name__": "__main__"}
    parts, files = [], {}
    with contextlib.chdir(folder):
        for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(source)
                continue
            try:
                shown = run_cell(source, f"{notebook.name}, cell {number}", scope)
            except Exception as error:
                error.add_note(f"in {notebook.name}, cell {number}")
                raise
            parts += [f"```python\n{source}\n```", *shown]
            for drawn in figures():
                name = f"{pictures}-{len(files)}.svg"
                files[name] = drawn
                parts.append(f"![figure]({name})")
    return "\n\n".join(parts) + "\n", files


def run_cell(source: str, name: str, scope: dict[str, Any]) -> list[str]:
    """Runs a cell in ``scope`` and returns what it shows, as Markdown."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), scope)
    shown = [f"```text\n{printed.getvalue().rstrip()}\n```"] if printed.getvalue() else []
    if hasattr(value, "_repr_html_"):
        shown.append(value._repr_html_())
    elif value is not None:
        shown.append(f"```text\n{value!r}\n```")
    return shown


def figures() -> list[bytes]:
    """The open matplotlib figures as SVG; they are closed."""
    import matplotlib.pyplot as plt

    drawn = []
    for number in plt.get_fignums():
        out = io.BytesIO()
        plt.figure(number).savefig(out, format="svg", metadata={"Date": None})
        drawn.append(out.getvalue())
    plt.close("all")
    return drawn


def main() -> None:
    """Write the pages of all notebooks into docs/generated/."""
    (HERE / "generated").mkdir(exist_ok=True)
    for notebook in NOTEBOOKS:
        name = f"notebook-{notebook.stem}"
        with tempfile.TemporaryDirectory(prefix="xbc-") as folder:
            text, files = run_notebook(notebook, Path(folder), name)
        (HERE / "generated" / f"{name}.md").write_text(text, encoding="utf-8")
        for file, content in files.items():
            (HERE / "generated" / file).write_bytes(content)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "svg")
    main()
