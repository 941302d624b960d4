"""The dynamic programme of ``hold-codes`` against its plain numpy reference, one thread.

Sixteen rows of sorted 8-bit codes, 1 bit per cell; weights per second of CPU time, and the cost both reach.

    python benchmarks/hold_codes.py [--json] [--steps 20000]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from passes.solvers.viterbi import LANES, PACKED, hold_rows, reference


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=20000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    codes = np.sort(rng.integers(0, 256, (options.steps, LANES)), axis=0) + rng.integers(
        -5, 6, (options.steps, LANES)
    )
    wanted = np.clip(codes, 0, 255).astype(np.float32)
    values = np.arange(256, dtype=np.float32)
    facts = {}
    for penalty in (0.3, 0.1, 0.03):
        held = np.zeros(wanted.shape, np.uint8)
        weight = np.full(wanted.shape, penalty * PACKED, np.float32)
        lengths = np.full(LANES, options.steps)
        free = np.full(LANES, -1)
        hold_rows(
            wanted[:20], weight[:20], np.full(LANES, 20), 8, values, 1, PACKED, PACKED, 256, free, held[:20]
        )
        started = time.thread_time()
        cut = hold_rows(wanted, weight, lengths, 8, values, 1, PACKED, PACKED, 256, free, held)
        rate = wanted.size / (time.thread_time() - started)
        part = slice(0, 400)
        started = time.thread_time()
        reference(wanted[part, 0], np.full(400, penalty), 8, values, 1, 1.0, 1.0)
        plain = 400 / (time.thread_time() - started)
        facts[str(penalty)] = {
            "weights_per_second": rate,
            "ratio_to_numpy": rate / plain,
            "windows_cut_short": int(cut),
            "rms_error": float(np.sqrt(np.mean((held - wanted) ** 2))),
        }
    if options.json:
        print(json.dumps(facts))
        return
    for penalty, f in facts.items():
        print(
            f"lambda {penalty:>5}: {f['weights_per_second'] / 1e6:5.2f} M weights/s, "
            f"{f['ratio_to_numpy']:6.0f}x numpy, "
            f"RMS error {f['rms_error']:.2f} LSB, {f['windows_cut_short']} windows cut short"
        )


if __name__ == "__main__":
    main()
