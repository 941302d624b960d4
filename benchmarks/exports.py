"""Every export of compiled programs: bytes, seconds, peak memory, bytes per cell write against Parquet; and the
readers in C and Verilog.

    python benchmarks/exports.py [PROGRAM.xbc ...] [--keep FOLDER] [--icarus-loads 1000]

Without programs the digits CNN is compiled. A write here is a row of the writes table (both inferences). The ratio of
a format is its bytes to those of loads.parquet + writes.parquet, which say the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FORMATS = ("csv", "jsonl", "memh", "npy", "neurosim", "aihwkit", "pimcomp", "binary")
MODEL = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
CHILD = (
    "import resource,sys\n"
    "from xbc.export import export_program\n"
    "export_program(sys.argv[1], sys.argv[2], sys.argv[3])\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(used.ru_maxrss, used.ru_utime + used.ru_stime)\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", type=Path)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument(
        "--keep", type=Path, help="write the exports there instead of into a temporary folder"
    )
    parser.add_argument("--icarus-loads", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or Path(temporary)
        work.mkdir(exist_ok=True)
        programs = arguments.programs or [compiled(work)]
        for program in programs:
            measure(program, work, arguments.formats.split(","), bool(arguments.keep))
            c_reader(program, work)
            icarus(program, work, arguments.icarus_loads)


def compiled(work: Path) -> Path:
    from xbc.driver.compile import compile_model

    return compile_model(MODEL, work / "digits_cnn.xbc", level=1).directory


def measure(program: Path, work: Path, formats: list[str], keep: bool) -> None:
    totals = json.loads((program / "manifest.json").read_text())["totals"]
    parquet = sum((program / f"{name}.parquet").stat().st_size for name in ("loads", "writes"))
    rows = totals["write_rows"]
    print(
        f"{program.name}: {totals['loads']:,} loads, {rows:,} writes; Parquet (loads + writes) {parquet:,} bytes"
    )
    print(
        f"  {'format':<9}{'MB':>10}{'bytes/write':>13}{'vs Parquet':>12}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}"
    )
    print(f"  {'parquet':<9}{parquet / 1e6:>10.2f}{parquet / rows:>13.3f}{1.0:>12.3f}")
    for name in formats:
        out = work / f"{program.stem}-{name}"
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, program, name, out], capture_output=True, text=True, check=True
        )
        wall = time.perf_counter() - started
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        peak, seconds = (float(word) for word in done.stdout.split())
        ratio = size / parquet
        print(
            f"  {name:<9}{size / 1e6:>10.2f}{size / rows:>13.3f}{ratio:>12.3f}{seconds:>9.1f}{wall:>9.1f}"
            f"{peak / 1024:>9.0f}",
            flush=True,
        )
        if not keep:
            shutil.rmtree(out)


def c_reader(program: Path, work: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        print("  C reader: skipped, no C compiler here")
        return
    from xbc.export import export_program

    out = work / f"{program.stem}-c"
    export_program(program, "binary", out)
    subprocess.run([compiler, "-O2", "-o", work / "replay", out / "xbc_replay.c"], check=True)
    started = time.perf_counter()
    said = subprocess.run([work / "replay", out / "program.xbcs"], capture_output=True, text=True)
    print(
        f"  C reader, all loads, {time.perf_counter() - started:.1f} s: {said.stdout.strip().replace(chr(10), '; ')}"
    )


def icarus(program: Path, work: Path, loads: int) -> None:
    if shutil.which("iverilog") is None:
        print("  Icarus: skipped, not on this machine")
        return
    from xbc.export import export_program

    total = json.loads((program / "manifest.json").read_text())["totals"]["loads"]
    out = work / f"{program.stem}-rtl"
    export_program(program, "memh", out, loads=min(loads, total))
    bench = work / "bench.vvp"
    files = ["xbc_crossbar.sv", "xbc_testbench.sv"]
    build = ["iverilog", "-g2012", "-s", "xbc_testbench", "-o", bench.absolute(), *files]
    subprocess.run(build, cwd=out, check=True)
    started = time.perf_counter()
    said = subprocess.run(["vvp", "-n", bench.absolute()], cwd=out, capture_output=True, text=True)
    last = said.stdout.strip().splitlines()[-1]
    print(
        f"  Icarus, first {min(loads, total):,} loads, {time.perf_counter() - started:.1f} s: {last}",
        flush=True,
    )


if __name__ == "__main__":
    main()
