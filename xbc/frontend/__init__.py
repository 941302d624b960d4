"""ONNX in: a model file becomes crossbar layers and a host graph."""

from xbc.frontend.host import host_bytes, host_sha256, host_with_weights
from xbc.frontend.importer import Imported, import_model
from xbc.frontend.static_nodes import why_no_layers
from xbc.frontend.weights import layer_tensor, module_tensors, original_weights

__all__ = [
    "Imported",
    "host_bytes",
    "host_sha256",
    "host_with_weights",
    "import_model",
    "layer_tensor",
    "module_tensors",
    "original_weights",
    "why_no_layers",
]
