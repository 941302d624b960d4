"""Evaluation sets: what is read, and one sentence for everything that is not."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ir.errors import XbcError
from xbc.simulate.data import load_data
from xbc.simulate.feeds import Port

ONE = (Port("x", "float32", (None, 3)),)
TWO = (*ONE, Port("state", "float32", (2, None, 4)))
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays)
    return path


def test_named_arrays_and_labels(tmp_path: Path) -> None:
    state = np.zeros((2, 2, 4), np.float32)
    data = load_data(
        save(tmp_path, x=X, state=state, labels=np.array([1, 0], np.uint8), ids=np.zeros(2)), TWO
    )
    assert list(data.inputs) == ["x", "state"]
    np.testing.assert_array_equal(data.inputs["x"], X)
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [1, 0]


def test_a_single_array_may_have_any_name(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_data(save(tmp_path, pictures=X), ONE).inputs["x"], X)
    data = load_data(save(tmp_path, pictures=X, labels=np.array([[1], [0]])), ONE)
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]
    np.save(tmp_path / "plain.npy", X)
    np.testing.assert_array_equal(load_data(tmp_path / "plain.npy", ONE).inputs["x"], X)


def test_an_input_called_labels_is_an_input(tmp_path: Path) -> None:
    data = load_data(save(tmp_path, labels=X), (Port("labels", "float32", (None, 3)),))
    assert data.labels is None
    np.testing.assert_array_equal(data.inputs["labels"], X)


@pytest.mark.parametrize(
    ("arrays", "ports", "message"),
    [
        ({"x": X}, TWO, r"no array for the model's input 'state' float32 \[2, free, 4\]; it holds 'x'"),
        ({"a": X, "b": X}, ONE, "'a', 'b': name the arrays after the inputs"),
        ({"labels": np.array([1])}, ONE, "holds none"),
        ({"x": X, "labels": np.array([0.5, 1.0])}, ONE, "labels are float64"),
        ({"x": X, "labels": np.array(["a", "b"])}, ONE, "must be integers"),
        ({"x": X, "labels": np.array(3)}, ONE, "no samples"),
        ({"x": np.array([{}, []], object)}, ONE, "'x' holds Python objects"),
        ({}, ONE, "no arrays"),
    ],
)
def test_sets_that_do_not_suit(
    arrays: dict[str, Any], ports: tuple[Port, ...], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(XbcError, match=message) as caught:
        load_data(path, ports)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_sets(tmp_path: Path) -> None:
    with pytest.raises(XbcError, match="does not exist"):
        load_data(tmp_path / "none.npz", ONE)
    with pytest.raises(XbcError, match="is a folder"):
        load_data(tmp_path, ONE)
    path = tmp_path / "set.npz"
    path.write_bytes(b"some text")
    with pytest.raises(XbcError, match="not a readable"):
        load_data(path, ONE)
    whole = save(tmp_path, x=X).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(XbcError, match="not a readable"):
        load_data(path, ONE)
    damaged = bytearray(whole)
    damaged[whole.index(X.tobytes()) + 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(XbcError, match="CRC"):
        load_data(path, ONE)


def test_sizes_are_checked_before_they_are_believed(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)}
    faked = io.BytesIO()
    np.lib.format.write_array_header_1_0(faked, header)
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", faked.getvalue() + bytes(24))
    with pytest.raises(XbcError, match=r"'x' claims 4398046511104 bytes, \d+ are there"):
        load_data(path, ONE)
    (tmp_path / "x.npy").write_bytes(faked.getvalue() + bytes(24))
    with pytest.raises(XbcError, match="claims 4398046511104 bytes"):
        load_data(tmp_path / "x.npy", ONE)


def test_nan_is_refused_where_it_stands_and_infinity_is_not(tmp_path: Path) -> None:
    x = np.zeros((5, 2, 3), np.float32)
    x[1, 0, 0] = -np.inf
    np.savez(tmp_path / "x.npz", x=x)
    port = Port("x", "float32", (None, 2, 3))
    assert load_data(tmp_path / "x.npz", [port]).inputs["x"][1, 0, 0] == -np.inf
    x[3, 1, 2] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(XbcError, match=r"'x' holds nan at index \[3, 1, 2\]"):
        load_data(tmp_path / "x.npz", [port])
    np.savez(tmp_path / "x.npz", x=np.float32(np.nan))
    with pytest.raises(XbcError, match=r"holds nan at index \[\]"):
        load_data(tmp_path / "x.npz", [Port("x", "float32", ())])


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 3000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': f(), }",
        "{'descr': ('<f4', 'x'), 'fortran_order': False, 'shape': (6, 8), }",
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_headers_that_are_none(header: str, packed: bool, tmp_path: Path) -> None:
    """Found by attack/inputs.py: the first two ended in a traceback."""
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + b"\0" * 192
    path = tmp_path / "set.npz"
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(XbcError, match=r"set\.npz") as refused:
        load_data(path, [Port("x", "float32", (None, 8))])
    assert len(str(refused.value)) < 300 + len(str(tmp_path))
