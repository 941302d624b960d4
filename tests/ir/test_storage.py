"""Modules as files: round trip, determinism, damage, hostile folders, interrupted writes."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Float, Module, Programmed, XbcError, load_module, print_module, save_module, storage
from tests.ir.test_text import example
from tests.ir.tiny import modules


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved module with several array files."""
    path = tmp_path / "m.xir"
    save_module(example(), path, inline_limit=4)
    return path


@given(module=modules(), limit=st.sampled_from([0, 5, 64]), mmap=st.booleans(), check=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, module: Module, limit: int, mmap: bool, check: bool
) -> None:
    path = tmp_path_factory.mktemp("round") / "m.xir"
    save_module(module, path, limit)
    loaded = load_module(path, mmap, check)
    assert loaded == module
    assert print_module(loaded) == print_module(module)
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("mmap", [True, False])
def test_large_arrays_are_mapped(tmp_path: Path, mmap: bool) -> None:
    values = np.random.default_rng(0).normal(size=(512, 600)).astype(np.float32)
    layer = example().layers[1]
    layout = dataclasses.replace(layer.origin.layout, shape=(600, 512), split=(600, 512))
    layer = dataclasses.replace(
        layer, body=Float(values=values), origin=dataclasses.replace(layer.origin, layout=layout)
    )
    module = dataclasses.replace(example(), layers=(layer,), edges=())
    save_module(module, tmp_path / "m.xir")
    loaded = load_module(tmp_path / "m.xir", mmap).layers[0].at(Float).values
    np.testing.assert_array_equal(loaded, values)
    assert not loaded.flags.writeable
    bases = []
    array = loaded
    while array is not None:
        bases.append(type(array))
        array = getattr(array, "base", None)  # type: ignore[assignment]
    assert (np.memmap in bases) == mmap
    # saving over the files that the module itself is mapped from
    changed = Float(values=-loaded)
    save_module(module.with_layers([layer.with_body(changed)]), tmp_path / "m.xir")
    np.testing.assert_array_equal(loaded, values)
    np.testing.assert_array_equal(load_module(tmp_path / "m.xir").layers[0].at(Float).values, -values)
    assert len(list((tmp_path / "m.arrays").iterdir())) == 1


def test_same_module_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_module(example(), tmp_path / name / "m.xir", inline_limit=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 6
    save_module(load_module(tmp_path / "b" / "m.xir"), tmp_path / "b" / "m.xir", inline_limit=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_array_files_are_plain_npy(saved: Path) -> None:
    arrays = {f.stem: np.load(f, allow_pickle=False) for f in (saved.parent / "m.arrays").iterdir()}
    codes = example().layers[0].at(Programmed).codes
    assert any(array.dtype == codes.dtype and np.array_equal(array, codes) for array in arrays.values())


def test_small_modules_need_no_folder(tmp_path: Path) -> None:
    save_module(example(), tmp_path / "m.xir", inline_limit=4)
    (tmp_path / "m.arrays" / "notes.txt").write_text("mine")
    (tmp_path / "m.arrays" / ".0123456789abcdef.npy.77.tmp").write_text("left by an interrupted save")
    (tmp_path / ".m.xir.77.tmp").write_text("left by an interrupted save")
    save_module(example(), tmp_path / "m.xir", inline_limit=1000)
    assert sorted(contents(tmp_path)) == ["m.arrays/notes.txt", "m.xir"]
    (tmp_path / "m.arrays" / "notes.txt").unlink()
    save_module(example(), tmp_path / "m.xir", inline_limit=1000)
    assert [f.name for f in tmp_path.iterdir()] == ["m.xir"]


def poke(file: Path, position: int, value: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        stream.write(bytes([value]))


def damaged(file: Path) -> Iterator[None]:
    """The file with each byte changed in turn."""
    whole = file.read_bytes()
    masks = np.random.default_rng(0).integers(1, 256, len(whole))
    for position, mask in enumerate(masks):
        poke(file, position, whole[position] ^ int(mask))
        yield
        poke(file, position, whole[position])


def test_a_changed_byte_anywhere_is_found_and_named(saved: Path) -> None:
    for file in [saved, *sorted((saved.parent / "m.arrays").iterdir())]:
        for _ in damaged(file):
            with pytest.raises(XbcError) as caught:
                load_module(saved)
            assert str(caught.value).startswith(f"{saved}: ")
            assert file is saved or f"m.arrays/{file.name} is damaged" in str(caught.value)
    assert load_module(saved) == example()


def test_every_change_of_the_first_line_is_found(saved: Path) -> None:
    whole = saved.read_bytes()
    for position in range(whole.index(b"\n") + 1):
        for value in set(range(128)) - {whole[position]}:
            poke(saved, position, value)
            with pytest.raises(XbcError):
                load_module(saved)
        poke(saved, position, whole[position])
    assert load_module(saved) == example()


def test_an_edit_on_purpose(saved: Path) -> None:
    text = saved.read_text().replace('"example"', '"edited"')
    saved.write_text(text)
    with pytest.raises(
        XbcError, match=r"m.xir: line 1: the text does not have the digest .*delete the digest"
    ):
        load_module(saved)
    saved.write_text("xir 1\n" + text.split("\n", 1)[1])
    assert load_module(saved).name == "edited"


def test_truncated_and_missing_files(saved: Path) -> None:
    file = sorted((saved.parent / "m.arrays").iterdir())[0]
    whole = file.read_bytes()
    for cut in (0, 5, 60, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(
            XbcError, match=rf"line \d+.*m.arrays/{file.name} is damaged: it has {cut} bytes, \d+ are"
        ):
            load_module(saved)
    file.write_bytes(whole + b"\0")
    with pytest.raises(XbcError, match="is damaged"):
        load_module(saved)
    file.unlink()
    with pytest.raises(XbcError, match=rf"m.arrays/{file.name} is missing: copy the folder m.arrays"):
        load_module(saved)
    file.mkdir()
    with pytest.raises(XbcError, match=rf"m.arrays/{file.name} cannot be read"):
        load_module(saved)
    saved.write_bytes(saved.read_bytes()[:200])
    with pytest.raises(XbcError, match="line 1: the text does not have the digest"):
        load_module(saved)


def test_files_that_are_no_modules(tmp_path: Path) -> None:
    path = tmp_path / "x.xir"
    with pytest.raises(XbcError, match=r"x.xir: cannot be read \(No such file"):
        load_module(path)
    with pytest.raises(XbcError, match=r"cannot be read \(Is a directory"):
        load_module(tmp_path)
    for content, message in (
        (b"", "line 1: not an xbc module"),
        (b"\x08\x0a\xff\xfe onnx", "is no module, or is damaged: byte 2 is not UTF-8"),
        (b'{"json": 1}', "line 1: not an xbc module"),
        (b"xir 9\nmodule {}", "format version 9 is newer than 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(XbcError, match=message):
            load_module(path)


def test_a_text_beyond_any_module_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_TEXT_BYTES", 100)
    with pytest.raises(XbcError, match="the text of one has at most 100 bytes"):
        load_module(saved)


def test_pickles_are_not_loaded(saved: Path) -> None:
    file = sorted((saved.parent / "m.arrays").iterdir())[0]
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(XbcError, match="is damaged"):
        load_module(saved)


def test_links_out_of_the_folder_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = saved.parent / "m.arrays"
    file = sorted(folder.iterdir())[0]
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    file.rename(outside / file.name)
    file.symlink_to(outside / file.name)
    with pytest.raises(XbcError, match="is a link out of its folder"):
        load_module(saved)
    file.unlink()
    (outside / file.name).rename(file)
    assert load_module(saved) == example()
    folder.rename(outside / "arrays")
    folder.symlink_to(outside / "arrays")
    with pytest.raises(XbcError, match="is a link out of its folder"):
        load_module(saved)


def test_a_name_that_is_no_module_name(tmp_path: Path) -> None:
    with pytest.raises(XbcError, match=r"must be named <name>\.xir"):
        save_module(example(), tmp_path / "m.txt")


def test_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(XbcError, match="cannot be written"):
        save_module(example(), tmp_path / "missing" / "m.xir")
    (tmp_path / "m.xir").mkdir()
    with pytest.raises(XbcError, match="cannot be written"):
        save_module(example(), tmp_path / "m.xir", inline_limit=4)
    assert [f.name for f in tmp_path.iterdir()] == ["m.xir"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [False, True])
def test_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, before: bool
) -> None:
    """Fail at every write in turn: what was there before is still there, and nothing else."""
    path = tmp_path / "m.xir"
    older = dataclasses.replace(example(), name="older").with_layers(example().layers[1:])
    older = dataclasses.replace(older, edges=())
    if before:
        save_module(older, path, inline_limit=4)
    kept = contents(tmp_path)
    write = storage._write
    expected = XbcError if isinstance(error, OSError) else KeyboardInterrupt
    for allowed in range(6):
        calls = iter(range(allowed + 1))

        def failing(
            file: Path, head: bytes, content: bytes, calls: Iterator[int] = calls, allowed: int = allowed
        ) -> None:
            if next(calls) == allowed:
                raise error
            write(file, head, content)

        monkeypatch.setattr(storage, "_write", failing)
        with pytest.raises(expected):
            save_module(example(), path, inline_limit=4)
        assert contents(tmp_path) == kept
        assert [f.name for f in tmp_path.iterdir() if f.name != "m.arrays" or not before] == [
            "m.xir"
        ] * before
    monkeypatch.setattr(storage, "_write", write)
    save_module(example(), path, inline_limit=4)
    assert load_module(path) == example()


def test_a_failing_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(XbcError, match="No space left on device"):
        save_module(example(), tmp_path / "m.xir", inline_limit=4)
    assert not os.listdir(tmp_path)
