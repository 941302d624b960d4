"""Whether two checkouts of xbc compile the same programs: digests of every file that a chip or a host reads.

    python benchmarks/identical.py --write before.json [MODEL.onnx ...] [--data NAME=SET.npz ...]
    python benchmarks/identical.py --against before.json [MODEL.onnx ...] [--data NAME=SET.npz ...]

Run with the first form in one checkout and the second in another (``python benchmarks/identical.py`` compiles with the
checkout that it stands in).  Without models: those of ``models/``.  Every model is compiled at -O2, at -O3 with its
set where one is given, and at -O3 --max-error 0.5 otherwise.  ``manifest.json`` is left out: it holds the command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from xbc.driver.compile import compile_model  # noqa: E402

SHIPPED = ("digits_cnn", "digits_cnn_qdq", "digits_lstm", "digits_vit", "digits_bulk")
WITH_DATA = ("digits_cnn", "digits_cnn_qdq", "digits_vit")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a program but its manifest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=SET.npz")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    models = given.models or [ROOT / "models" / f"{name}.onnx" for name in SHIPPED]
    sets = dict.fromkeys(WITH_DATA, ROOT / "models" / "digits_calib.npz")
    sets |= {name: Path(file) for name, _, file in (item.partition("=") for item in given.data)}
    found: dict[str, dict[str, str]] = {}
    for model in models:
        data = sets.get(model.stem)
        for level in (2, 3):
            with tempfile.TemporaryDirectory() as scratch:
                if level == 2:
                    done = compile_model(model, f"{scratch}/p.xbc", level=2)
                elif data is None:
                    done = compile_model(model, f"{scratch}/p.xbc", level=3, max_error=0.5)
                else:
                    done = compile_model(model, f"{scratch}/p.xbc", level=3, data=data)
                found[f"{model.stem} -O{level}"] = digests(done.directory)
                print(f"{model.stem} -O{level}: {done.summary['writes']['emitted']:,} writes", flush=True)
    if given.write:
        given.write.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    if not given.against:
        parser.error("give --write FILE or --against FILE")
    before = json.loads(given.against.read_text())
    shared = found.keys() & before.keys()
    wrong = [
        f"{name}: {file}"
        for name in sorted(shared)
        for file in sorted(found[name].keys() | before[name].keys())
        if found[name].get(file) != before[name].get(file)
    ]
    print("\n".join(wrong) or f"{len(shared)} programs, all files byte-identical")
    return 1 if wrong or not shared else 0


if __name__ == "__main__":
    sys.exit(main())
