"""Models as callers have them: a file, its bytes, or the parsed protobuf."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import onnx

from ir.errors import XbcError

GivenModel = str | os.PathLike[str] | bytes | onnx.ModelProto
"""A model file, its content, or the model itself (without external data)."""

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def model_file(model: GivenModel) -> Iterator[Path]:
    """The model as a file, for as long as the block runs.

    One from memory is named after its graph (``model`` when that has no name); its SHA-256 is that of its content.
    """
    if isinstance(model, str | os.PathLike):
        yield Path(model)
        return
    if isinstance(model, bytes):
        name, content = "model", model
    else:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.graph.name).strip("._-")[:64] or "model"
        try:
            content = model.SerializeToString(deterministic=True)
        except Exception:  # protobuf's EncodeError, whose module ships no types
            raise XbcError(
                f"model {name!r} cannot be serialised (larger than 2 GiB?): save it with external data, give the file"
            ) from None
    with tempfile.TemporaryDirectory(prefix="xbc-") as folder:
        path = Path(folder) / f"{name}.onnx"
        path.write_bytes(content)
        yield path


def file_of(model: GivenModel) -> Path:
    """The path of a model that is a file by now (see ``from_memory``)."""
    if not isinstance(model, str | os.PathLike):
        raise XbcError("the model is in memory: a file is needed here")
    return Path(model)


def from_memory(function: F) -> F:
    """Lets a function whose first argument is a model's path take a ``GivenModel``."""

    @functools.wraps(function)
    def wrapper(model: GivenModel, *arguments: Any, **options: Any) -> Any:
        with model_file(model) as path:
            return function(path, *arguments, **options)

    return cast(F, wrapper)
