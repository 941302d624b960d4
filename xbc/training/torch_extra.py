"""The one place that says what is missing when torch is absent."""

from __future__ import annotations

from ir.errors import XbcError

try:
    import torch as torch
    from torch import Tensor as Tensor
except ImportError as missing:  # pragma: no cover - depends on the installation
    raise XbcError(
        "xbc.training needs torch, which is not installed: in the checkout, pip install -e '.[train]'"
    ) from missing
