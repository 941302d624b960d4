"""Signals at random moments, disks that are full, memory that ends: real processes, real signals.

    python attack/signals.py [--signals 100] [--limits 100] [--seed 0] [--first 0]

A case forks a process that runs the console script's ``main`` on a command, and sends it SIGINT or SIGTERM (sometimes
twice) at a random moment of its life; or it bounds the size of files or the address space. Right: exit 0, 2, 130 or
143 with at most one line on stderr; the output is wholly the old one or wholly the new one, and the line says which;
nothing else is left beside it or in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Tally, campaign, exit_code, small_program, xbc

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
COMMANDS = ("compile", "emit", "update", "resume", "simulate", "report", "verify", "evaluate")


def digest(path: Path) -> str:
    """Of a file, or of every file of a folder; empty where nothing is."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    whole = hashlib.sha256()
    for file in files:
        whole.update((b"" if file == path else file.name.encode()) + b"\0" + file.read_bytes())
    return whole.hexdigest() if path.exists() else ""


def words_of(
    command: str, program: Path, model: Path, data: Path, levels: Path, output: Path
) -> list[object]:
    return {
        "compile": ["compile", model, "-t", "rram-64", "--set=crossbars=3", "-O0", "-q", "-o", output],
        "emit": ["emit", program, "-q", "-f", "csv", "-o", output],
        "update": ["update", program, model, "-q", "-o", output],
        "resume": ["resume", program, "--levels", levels, "--inference", "first", "-o", output],
        "simulate": ["simulate", program, "-q", "--inputs", data, "-o", output],
        "report": ["report", program, "-q", "-o", output],
        "verify": ["verify", program, "-q"],
        "evaluate": ["evaluate", program, "-q", "--data", data],
    }[command]


def start(words: list[object], folder: Path, limit: tuple[str, int] | None = None) -> tuple[int, int]:
    """(process id, where its stderr is read) of the console script, run on these words."""
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 70
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the console script takes it
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(write, 2)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        sys.argv = ["xbc", *map(str, words)]
        if limit is not None:
            kind, value = limit
            used = (
                int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                if kind == "AS"
                else 0
            )
            resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (used + value, resource.RLIM_INFINITY))
        from xbc.cli.main import main

        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(pid: int, stderr: int) -> tuple[int, str]:
    """(status, stderr) of a process that has ended."""
    with os.fdopen(stderr, "rb") as stream:
        says = stream.read().decode(errors="replace")
    return os.waitpid(pid, 0)[1], says


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--limits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        folder = Path(temporary)
        program, model, data = small_program(folder, "rram-64", "crossbars=3")
        levels = folder / "l.npy"
        np.save(levels, np.zeros((3, 64, 64), np.uint8))
        new: dict[str, str] = {}
        lives: dict[str, float] = {}
        suffix = {"simulate": ".npz", "report": ".html"}
        for command in COMMANDS:  # twice: kernels first, then how long it lives
            for _ in range(2):
                output = folder / f"new{suffix.get(command, '')}"
                shutil.rmtree(output, ignore_errors=True)
                output.unlink(missing_ok=True)
                begun = time.monotonic()
                said = xbc(*words_of(command, program, model, data, levels, output))
                lives[command] = time.monotonic() - begun
                assert said.code == 0, said.err
                new[command] = digest(output)
            shutil.rmtree(output, ignore_errors=True)
            output.unlink(missing_ok=True)

        def prepare(draw: np.random.Generator, work: Path) -> tuple[str, Path, str]:
            command = str(draw.choice(COMMANDS))
            output = work / f"o{suffix.get(command, '')}"
            (work / "tmp").mkdir()
            if command in ("compile", "update") and draw.integers(2):
                shutil.copytree(program, output)  # an older program is there
            return command, output, digest(output)

        def judge(
            tally: Tally,
            work: Path,
            case: tuple[str, Path, str],
            end: tuple[int, str],
            codes: set[int],
            what: str,
        ) -> None:
            (command, output, old), (status, says) = case, end
            code = os.waitstatus_to_exitcode(status)
            tally.counts[f"exit {code}"] += 1
            there = digest(output)
            state = "new" if there == new[command] and there else "old" if there == old else "neither"
            tally.counts[f"{state} output"] += 1
            faults = []
            if code in (-signal.SIGTERM, -signal.SIGINT) and state == "old":
                return  # before the command began
            if code not in codes:
                faults.append(f"exit {code}: {says.strip()[-600:]}")
            if len(says.strip().splitlines()) > 1:
                faults.append(f"more than one line: {says.strip()[-600:]}")
            if state == "neither":
                faults.append("the output is neither the old nor the new one")
            if code in STOPPED.values() and there != old and "stands complete" not in says:
                faults.append(f"the new output is there and nothing says so: {says!r}")
            if (
                code in STOPPED.values()
                and there == old
                and state != "new"
                and "no output was changed" not in says
            ):
                faults.append(f"the old output is there and nothing says so: {says!r}")
            left = {p.name for p in work.iterdir()} - {"tmp", output.name}
            left |= {f"tmp/{p.name}" for p in (work / "tmp").iterdir()}
            if left:
                faults.append(f"left behind: {sorted(left)}")
            tally.findings += [f"{command}, {what}: {fault}" for fault in faults]

        def signalled(draw: np.random.Generator, work: Path, tally: Tally) -> None:
            case = command, output, _ = prepare(draw, work)
            number = signal.SIGINT if draw.integers(2) else signal.SIGTERM
            moment = float(draw.uniform(0, 1.6 * lives[command]))
            pid, says = start(words_of(command, program, model, data, levels, output), work)
            time.sleep(moment)
            for _ in range(1 + int(draw.integers(8) == 0)):
                os.kill(pid, number)
                time.sleep(0.002)
            what = f"{number.name} after {moment:.3f} s"
            judge(tally, work, case, finish(pid, says), {0, STOPPED[number]}, what)

        def bounded(draw: np.random.Generator, work: Path, tally: Tally) -> None:
            case = command, output, _ = prepare(draw, work)
            kind = str(draw.choice(["FSIZE", "AS"]))
            value = (
                int(draw.choice([0, 100, 3000, 10_000])) if kind == "FSIZE" else int(draw.integers(1 << 28))
            )
            pid, says = start(words_of(command, program, model, data, levels, output), work, (kind, value))
            tally.counts[kind] += 1
            judge(tally, work, case, finish(pid, says), {0, 2}, f"{kind} of {value} bytes")

        found = [
            campaign("signals", signalled, options.signals, options.seed, folder, options.first),
            campaign("limits", bounded, options.limits, options.seed, folder, options.first),
        ]
        return exit_code(*found)


if __name__ == "__main__":
    sys.exit(main())
