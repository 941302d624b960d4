"""What holds for the repository as a whole: import arrows, declared dependencies, no traces of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ir", "passes", "xbc")
# each room imports from those before it only
ROOMS = (
    "system", "targets", "operators", "frontend", "backend", "chip", "export", "recovery", "schedule", "simulate",
    "sensitivity", "rescale", "budget", "driver", "update", "training", "report", "cli",
)  # fmt: skip
LINES = 450
LONG_ON_PURPOSE = {"LICENSE"}
# PyPI name -> import name, where they differ
IMPORT_NAMES = {"scikit-learn": "sklearn", "mkdocs-material": "material", "pytest-xdist": "xdist"}
# comes with onnx, which reads and writes its classes
WITH_ANOTHER = {"google": "onnx", "ml_dtypes": "onnx", "llvmlite": "numba"}


@cache
def tracked() -> tuple[Path, ...]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: the tracked files are unknown")
    return tuple(ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file())


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@cache
def project() -> dict[str, object]:
    data: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return data


def imports(package: str) -> Iterator[tuple[Path, int, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path.relative_to(ROOT), node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path.relative_to(ROOT), node.lineno, node.module


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("ir", {"passes", "xbc", "onnx", "onnxruntime", "ortools", "pyarrow", "click"}),
        ("passes", {"xbc", "click", "rich"}),
    ],
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path, line, name in imports(package)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong, "\n".join(wrong)


def arrows() -> Iterator[tuple[str, str]]:
    """(file, imported file) within the three packages, dotted."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield from (
                        (name, found)
                        for found in [inner if inner in files else node.module]
                        if found in files
                    )
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names if alias.name in files)


def test_arrows_between_rooms_run_one_way() -> None:
    found = {(a, b) for a, b in arrows() if a.startswith("xbc.") and b.startswith("xbc.")}
    place = {room: index for index, room in enumerate(ROOMS)}
    rooms = {(a.split(".")[1], b.split(".")[1], a, b) for a, b in found if a != "xbc.__main__"}
    assert {path.name for path in (ROOT / "xbc").iterdir() if (path / "__init__.py").is_file()} == set(ROOMS)
    wrong = [f"{a} imports {b}" for one, other, a, b in sorted(rooms) if place[one] < place[other]]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    # a package's __init__ names what its files define; they may import each other through it
    graph = nx.DiGraph((a, b) for a, b in arrows() if not (a.startswith(b + ".") or b.startswith(a + ".")))
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


def requirement_names(items: object) -> set[str]:
    assert isinstance(items, list)
    return {re.split(r"[<>=!~ \[;]", item, maxsplit=1)[0] for item in items}


def test_every_import_is_a_declared_dependency() -> None:
    declared = requirement_names(project()["dependencies"])
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    for items in extras.values():
        declared |= requirement_names(items)
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    known |= set(sys.stdlib_module_names) | set(PACKAGES)
    wrong = [
        f"{path}:{line} imports {name}"
        for package in PACKAGES
        for path, line, name in imports(package)
        if WITH_ANOTHER.get(top := name.split(".")[0], top) not in known
    ]
    assert not wrong, "add to pyproject.toml and docs/dependencies.md:\n" + "\n".join(wrong)


def test_every_dependency_is_pinned_and_explained() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins), (
        "exact versions only"
    )
    pinned = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for name in requirement_names(project()["dependencies"]) | {
        n for e in extras.values() for n in requirement_names(e)
    }:
        assert name.lower().replace("_", "-") in pinned, f"{name} has no exact version in constraints.txt"
        assert name in page, f"{name} is not explained in docs/dependencies.md"


def test_no_trace_of_a_machine_or_a_registry() -> None:
    folders = "|".join(["work", "tmp", "root", "home", "Users", "opt"])
    words = ["pypi" + ".org", "python" + "hosted", "find" + "-links", "index" + "-url", "trusted" + "-host"]
    pattern = re.compile(rf"(?<![\w.}})])/({folders})/|{'|'.join(map(re.escape, words))}")
    wrong = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_rooms_with_one_purpose() -> None:
    long = {
        str(path): lines
        for path, text in texts()
        if path.suffix != ".svg" and path.name not in LONG_ON_PURPOSE and (lines := text.count("\n")) >= LINES
    }
    assert not long, f"{LINES} lines or more: {long}"


def test_nothing_is_unpickled() -> None:
    wrong = [
        f"{path}:{line}: {name}"
        for package in PACKAGES
        for path, line, name in imports(package)
        if name.split(".")[0] in {"pickle", "marshal", "shelve", "joblib", "dill"}
    ]
    wrong += [
        str(path)
        for path, text in texts()
        if path.parts[0] in PACKAGES and re.search(r"allow_pickle\s*=\s*True", text)
    ]
    assert not wrong, "\n".join(wrong)


def test_version_is_in_the_changelog() -> None:
    version = str(project()["version"])
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_readme_gives_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), f"make help does not explain {target}"
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_packages_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
