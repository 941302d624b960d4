"""A folder of ONNX models through the whole toolchain, as a table: compile, verify, simulate, and the lossless check.

Every step of every model is a process of its own, so that processor seconds (user + system) and peak memory are
those of that step, and a step that fails is a row with its reason and ends nothing.  ``simulate`` runs one random
sample (free dims become 1), or what ``--inputs FOLDER`` holds as ``MODEL.npz`` for models that need more; the
check of ``lossless.py`` runs the same.

    python benchmarks/models.py FOLDER ... [--targets gather-128,isaac-128] [-O 2] [--threads 1] [--json facts.json]
        [--only PATTERN] [--inputs FOLDER] [--keep FOLDER] [--no-lossless]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lossless import random_inputs

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """What one process did: its output, exit code, processor and wall seconds, peak memory."""

    code: int
    out: str
    error: str
    cpu_seconds: float
    seconds: float
    peak_rss_gb: float

    def facts(self) -> dict[str, Any]:
        """For the JSON."""
        failure = {} if self.code == 0 else {"exit_code": self.code, "error": self.error.strip()[-500:]}
        return {
            "ok": self.code == 0,
            "cpu_seconds": round(self.cpu_seconds, 2),
            "seconds": round(self.seconds, 2),
            "peak_rss_gb": round(self.peak_rss_gb, 3),
            **failure,
        }


def run(*words: object, limit: float) -> Step:
    """One process with these words, ended after ``limit`` seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=out, stderr=err)
        late = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not late and time.perf_counter() - started > limit:
                late = True
                process.kill()
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        message = f"not finished after {limit:g} s" if late else err.read()
        return Step(
            process.returncode,
            out.read(),
            message,
            usage.ru_utime + usage.ru_stime,
            seconds,
            usage.ru_maxrss / 2**20,
        )


def samples(model: Path, given: Path | None, folder: Path) -> tuple[Path, bool]:
    """File with the inputs of a model, and whether it was given (else random)."""
    if given is not None and (given / f"{model.stem}.npz").is_file():
        return given / f"{model.stem}.npz", True
    path = folder / "inputs.npz"
    np.savez(path, **random_inputs(onnx.load(model, load_external_data=False)))  # type: ignore[arg-type]
    return path, False


def measure(model: Path, target: str, options: argparse.Namespace) -> dict[str, Any]:
    """All steps of one model on one target; the steps after a failed one are left out."""
    facts: dict[str, Any] = {"model": model.stem, "target": target}
    with tempfile.TemporaryDirectory(dir=options.keep) as name:
        folder = Path(name)
        program = folder if options.keep is None else options.keep
        program = program / f"{model.stem}.{target}.xbc"
        compiled = run(
            "-m", "xbc", "compile", model, "-t", target, "-O", options.level, "--threads", options.threads,
            "-o", program, "--json", "--quiet", limit=options.limit,
        )  # fmt: skip
        facts["compile"] = compiled.facts()
        if compiled.code:
            return facts
        facts |= json.loads(compiled.out)
        facts["model"] = model.stem
        verified = run("-m", "xbc", "verify", program, limit=options.limit)
        facts["verify"] = verified.facts()
        inputs, given = samples(model, options.inputs, folder)
        y = folder / "y.npz"
        simulated = run(
            "-m", "xbc", "simulate", program, "--inputs", inputs, "-o", y, "--threads", options.threads, "-q",
            limit=options.limit,
        )  # fmt: skip
        facts["simulate"] = simulated.facts() | {"random_input": not given}
        if options.lossless:
            words = [HERE / "lossless.py", model, program, "--inputs", inputs, "--json"]
            checked = run(*words, limit=options.limit)
            facts["lossless"] = checked.facts() | (json.loads(checked.out) if checked.out else {})
    return facts


def verdict(facts: dict[str, Any], step: str) -> str:
    """``ok``, ``-`` or ``FAILED``."""
    return "-" if step not in facts else "ok" if facts[step]["ok"] else "FAILED"


def row(facts: dict[str, Any]) -> str:
    """One line of the table."""
    made = facts["compile"]
    head = f"| {facts['model']} | {facts['target']} | "
    if not made["ok"]:
        return head + f"FAILED: {made['error'].splitlines()[-1] if made['error'] else made['exit_code']} |"
    writes = facts["writes"]
    counts = " / ".join(f"{writes[kind]:,}" for kind in ("full", "natural", "scheduled", "emitted"))
    ratio = "-" if facts["reduction"] is None else f"{facts['reduction']:.2f}x"
    kinds: dict[str, int] = {}
    for node in facts["unmapped"]:
        reason = f"{node['op_type']}: {node['reason']}"
        kinds[reason] = kinds.get(reason, 0) + 1
    unmapped = "; ".join(f"{n} {reason}" for reason, n in kinds.items()) or "none"
    checks = ", ".join(verdict(facts, step) for step in ("verify", "simulate", "lossless"))
    return head + (
        f"{facts['weights']:,} | {facts['sections']:,} | {counts} | {ratio} | {made['cpu_seconds']:.1f} | "
        f"{made['peak_rss_gb']:.2f} | {checks} | {unmapped} |"
    )


HEAD = (
    "| model | target | weights | sections | full / natural / scheduled / emitted | reduction | compile CPU s | "
    "peak GB | verify, simulate, lossless | unmapped |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Command line; exit code 1 when any step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        default=[HERE.parent / "models"],
        metavar="FOLDER",
        help="default: models/",
    )
    parser.add_argument("--targets", default="gather-128,isaac-128")
    parser.add_argument("-O", dest="level", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument(
        "--inputs", type=Path, help="folder with MODEL.npz, arrays named after the model's inputs"
    )
    parser.add_argument("--keep", type=Path, help="existing folder for the programs")
    parser.add_argument("--limit", type=float, default=1500, help="seconds a step may take")
    parser.add_argument("--no-lossless", dest="lossless", action="store_false")
    parser.add_argument("--json", type=Path, help="file for all facts")
    options = parser.parse_args()
    models = sorted({path for folder in options.folders for path in folder.glob("*.onnx")})
    everything = []
    print(HEAD, flush=True)
    for model in models:
        if fnmatch.fnmatch(model.stem, options.only):
            for target in options.targets.split(","):
                everything.append(measure(model, target, options))
                print(row(everything[-1]), flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(everything, indent=1))
    steps = ("compile", "verify", "simulate", "lossless")
    failed = any(not facts[step]["ok"] for facts in everything for step in steps if step in facts)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
