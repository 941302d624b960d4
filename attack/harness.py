"""What the campaigns share: a small program to attack, and commands run so that nothing that happens is missed.

A case runs ``xbc.cli.main.run`` in a forked worker: an exit code, what was said and the seconds come back; a worker
that dies (a signal out of native code) or does not answer is a finding like an exit code of 70.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("COLUMNS", "110")

SLOW_S = 60.0
"""Processor seconds after which a case counts as hanging."""
DEAD_S = 600.0
"""Seconds without an answer after which a worker is ended."""
LONGEST = 300


@dataclass(frozen=True)
class Said:
    """What a command did."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    def fault(self) -> str | None:
        """What is wrong with it whatever it was given: a crash, a hang, more than one sentence."""
        if self.code not in (0, 1, 2):
            return f"exit {self.code}: {self.err.strip()[-300:]}"
        if self.seconds > SLOW_S:
            return f"{self.seconds:.0f} processor seconds"
        if self.code == 2:
            lines = self.err.strip().splitlines()
            if len(lines) != 1 or not lines[0].startswith("xbc: error: "):
                return f"exit 2 with {len(lines)} lines: {self.err.strip()[:300]}"
            if len(lines[0]) > LONGEST + len("xbc: error: ") + 60:  # usage errors name their help
                return f"a sentence of {len(lines[0])} characters"
        return None


def xbc(*words: object) -> Said:
    """A command of xbc, run here."""
    from xbc.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()
    arguments = [str(word) for word in words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return Said(tuple(arguments), code, out.getvalue(), err.getvalue(), time.process_time() - start)


@dataclass
class Tally:
    """Counts of a campaign, and its findings."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes another's."""
        self.counts += other.counts
        self.findings += other.findings


Case = Callable[[np.random.Generator, Path, Tally], None]


def campaign(name: str, case: Case, cases: int, seed: int, folder: Path, first: int = 0) -> Tally:
    """Runs cases ``first ..`` in forked workers; a case draws from ``default_rng([seed, number])`` alone."""
    print(f"{name}: {cases} cases, seed {seed}", flush=True)
    total, number, shown, start = Tally(), first, 0, time.monotonic()
    while number < first + cases:
        answer = _worker(case, seed, number, first + cases, folder)
        total.add(answer.tally)
        if answer.died:
            total.findings.append(f"case {answer.number}: {answer.died}")
            total.counts["died"] += 1
        number = answer.number + 1
        for finding in total.findings[shown:]:
            print(f"  {finding}", flush=True)
        shown = len(total.findings)
        if number < first + cases and (number - first) % (5 * BATCH) < BATCH:
            print(
                f"{name}: {number - first} cases so far, {shown} findings: {dict(sorted(total.counts.items()))}",
                flush=True,
            )
    print(
        f"{name}: {cases} cases in {time.monotonic() - start:.0f} s, seed {seed}: {dict(sorted(total.counts.items()))}"
    )
    print(f"{name}: {len(total.findings)} findings", flush=True)
    return total


@dataclass
class _Answer:
    tally: Tally
    number: int
    died: str = ""


BATCH = 200


def _worker(case: Case, seed: int, first: int, stop: int, folder: Path) -> _Answer:
    """Cases from ``first`` on in one worker: ``BATCH`` of them, or as many as it lives."""
    stop = min(stop, first + BATCH)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with os.fdopen(write, "wb") as stream:
            for number in range(first, stop):
                tally = Tally()
                work = folder / f"case{number}"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                try:
                    case(np.random.default_rng([seed, number]), work, tally)
                except BaseException:
                    tally.findings.append(traceback.format_exc())
                tally.findings = [f"case {number}: {finding}" for finding in tally.findings]
                shutil.rmtree(work, ignore_errors=True)
                pickle.dump(tally, stream)
                stream.flush()
        os._exit(0)
    os.close(write)
    done, total = first - 1, Tally()
    died = ""
    with os.fdopen(read, "rb") as stream:
        while True:
            if not select.select([stream], [], [], DEAD_S)[0]:
                os.kill(pid, signal.SIGKILL)
                died = f"no answer for {DEAD_S:g} s"
            try:
                total.add(pickle.load(stream))
                done += 1
            except EOFError:
                break
    _, status = os.waitpid(pid, 0)
    if not died and (os.WIFSIGNALED(status) or done < stop - 1):
        died = f"the worker ended with status {status} (signal {status & 127})"
    return _Answer(total, min(done + 1, stop - 1) if died else done, died)


def small_program(
    folder: Path, target: str = "rram-64", *settings: str, passes: str = ""
) -> tuple[Path, Path, Path]:
    """(program, model, data): a convolution and a Gemm on few cells."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    weights = {
        "k": draw.normal(size=(4, 1, 3, 3)), "m": draw.normal(size=(5, 64)), "b": draw.normal(size=5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "m", "b"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "small.onnx"
    onnx.save(model, path)
    data = folder / "set.npz"
    np.savez(data, x=draw.normal(size=(6, 1, 8, 8)).astype(np.float32), labels=draw.integers(0, 5, 6))
    program = folder / "small.xbc"
    words = [f"--set={setting}" for setting in settings]
    words += ["--passes", passes] if passes else ["-O1"]
    made = xbc("compile", path, "-t", target, "-q", "-o", program, *words)
    if made.code:
        raise SystemExit(made.err)
    return program, path, data


@contextlib.contextmanager
def limited(**limits: int) -> Iterator[None]:
    """Resource limits of this process while the block runs (``FSIZE``, ``AS``, in bytes)."""
    before = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in limits}
    try:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, before[name][1]))
        yield
    finally:
        for name, old in before.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), old)


def exit_code(*tallies: Tally) -> int:
    """1 when anything was found."""
    return int(any(tally.findings for tally in tallies))
