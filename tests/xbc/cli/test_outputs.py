"""Files that commands write never replace what the command reads, nor a file of another kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir import XbcError
from tests.xbc.cli.conftest import Runner
from xbc.system.outputs import KINDS, check_file


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_file_of_the_kind_is_replaced(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "there"
    assert check_file(file, kind) == file
    for start in KINDS[kind]:
        file.write_bytes(start + b" and more")
        assert check_file(file, kind) == file
    file.write_bytes(b"notes of mine")
    with pytest.raises(XbcError, match=f"a file that is not {kind} file is there"):
        check_file(file, kind)
    assert check_file(file, None) == file


def test_inputs_are_not_replaced_under_any_name(tmp_path: Path) -> None:
    given, link = tmp_path / "set.npz", tmp_path / "link.npz"
    given.write_bytes(b"PK")
    link.symlink_to(given)
    for output in (given, link):
        with pytest.raises(XbcError, match="the command reads it"):
            check_file(output, "an .npz", None, given)
    with pytest.raises(XbcError, match="is a folder"):
        check_file(tmp_path, None)
    with pytest.raises(XbcError, match="does not exist"):
        check_file(tmp_path / "no" / "file", None)


def test_commands_refuse(xbc: Runner, program: Path, model: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((2, 1, 8, 8), np.float32))
    before = {path: path.read_bytes() for path in (notes, data, model, program / "program.xir")}
    for words in (
        ("rescale", model, "-o", model), ("rescale", model, "-o", notes),
        ("sensitivity", model, "--data", data, "-o", data), ("sensitivity", model, "--data", data, "-o", notes),
        ("simulate", program, "--inputs", data, "-o", data), ("simulate", program, "--inputs", data, "-o", notes),
        ("report", program, "-o", notes), ("opt", program, "-o", program / "program.xir"),
        ("readback", program, "--levels", data, "-o", notes),
    ):  # fmt: skip
        done = xbc(*words)
        assert done.code == 2, words
        assert "cannot write" in done.err, (words, done.err)
    assert before == {path: path.read_bytes() for path in before}
