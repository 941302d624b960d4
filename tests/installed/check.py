"""xbc as a user installs it: the wheel alone, without the pins of constraints.txt, run outside the checkout.

    python tests/installed/check.py newest            # what pip resolves today
    python tests/installed/check.py oldest            # the lower bounds that pyproject.toml states
    python tests/installed/check.py newest --tests    # and the whole test suite with these versions

``--python`` names the interpreter (default: the newest 3.11 to 3.14 on the machine for ``newest``, the oldest for
``oldest``).  Builds the wheel, installs it in an environment of its own, and does there what the README shows: compile,
verify, evaluate, report, emit, inspect.  Prints one line per step; exit code 1 when one fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
STEPS = (
    "compile digits_cnn.onnx -o p.xbc",
    "compile digits_cnn.onnx -o wide.xbc -t isaac-128 -O1",
    "compile digits_cnn.onnx -o held.xbc -O3 --max-error 0.3",
    "verify p.xbc",
    "verify held.xbc",
    "evaluate p.xbc --data digits_eval.npz --model digits_cnn.onnx",
    "simulate p.xbc --inputs digits_eval.npz --fidelity converters -o y.npz",
    "inspect p.xbc",
    "report p.xbc -o report.html",
    "emit p.xbc --format csv -o csv",
    "emit p.xbc --format binary -o binary",
    "passes",
    "targets",
)


def project() -> dict[str, object]:
    """The project table of pyproject.toml."""
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def lower_bounds() -> list[str]:
    """``name==version`` for every stated lower bound of the dependencies."""
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    return [re.sub(r">=", "==", item) for item in dependencies]


def interpreter(kind: str) -> str:
    """A Python of the machine that the project supports, the newest or the oldest that really runs."""
    order = VERSIONS if kind == "oldest" else tuple(reversed(VERSIONS))
    candidates = [f"python{version}" for version in order]
    for name in candidates:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return sys.executable


def run(what: str, command: list[str], folder: Path) -> None:
    """One step; its output is shown when it fails, and ends the check."""
    print(f"  {what}", flush=True)
    # the checkout must not be what is imported
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n")
        sys.exit(f"{what}: exit code {done.returncode}")


def main() -> None:
    """Builds, installs, runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("newest", "oldest"))
    parser.add_argument("--python", default="")
    parser.add_argument("--tests", action="store_true", help="run the test suite too")
    given = parser.parse_args()
    python = given.python or interpreter(given.kind)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"{given.kind} dependencies, {python}", flush=True)
        run("environment", [python, "-m", "venv", "env"], folder)
        inner = str(folder / "env" / "bin" / "python")
        run("wheel", [inner, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "dist", str(ROOT)], folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        bounds = folder / "bounds.txt"
        bounds.write_text("\n".join(lower_bounds() if given.kind == "oldest" else []) + "\n")
        extra = "[test]" if given.tests else ""
        run("install", [inner, "-m", "pip", "install", "-q", "-c", "bounds.txt", f"{wheel}{extra}"], folder)
        show = "import sys, numpy, onnx, numba; print(sys.version.split()[0], numpy.__version__, onnx.__version__)"
        where = "import xbc, pathlib; assert 'site-packages' in xbc.__file__, xbc.__file__"
        versions = subprocess.run(
            [inner, "-c", show], capture_output=True, text=True, cwd=folder
        ).stdout.split()
        print(f"  Python {versions[0]}, numpy {versions[1]}, onnx {versions[2]}", flush=True)
        work = folder / "work"
        work.mkdir()
        for name in ("digits_cnn.onnx", "digits_eval.npz"):
            shutil.copy(ROOT / "models" / name, work / name)
        run("import", [inner, "-c", where], work)
        for step in STEPS:
            run(f"xbc {step}", [inner, "-m", "xbc", *step.split()], work)
        if given.tests:
            run("the test suite", [inner, "-m", "pytest", "-n", "2", str(ROOT / "tests")], ROOT)
    print("all steps passed")


if __name__ == "__main__":
    main()
