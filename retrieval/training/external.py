"""ONNX graphs whose weights lie in a safetensors file beside them, so that what several graphs use is stored once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 8  # bytes of the length of a safetensors header
HALF = np.dtype("<f2")


def share_weights(model: Any, weights: Path) -> None:
    """Make every float16 weight of an ONNX graph that a safetensors file holds, as it is or transposed, refer to it
    there; transposed ones are turned when the graph is loaded."""
    from onnx import TensorProto, helper

    places = _places(weights)
    graph = model.graph
    for tensor in [each for each in graph.initializer if each.data_type == TensorProto.FLOAT16]:
        shape = tuple(tensor.dims)
        values = np.frombuffer(tensor.raw_data, HALF).reshape(shape)
        found = places.get((shape, values.tobytes()))
        if found is None and len(shape) == 2:
            found = places.get((shape[::-1], values.T.tobytes()))
            if found is not None:
                turned, tensor.name = tensor.name, tensor.name + "_turned"
                tensor.dims[:] = shape[::-1]
                graph.node.insert(0, helper.make_node("Transpose", [tensor.name], [turned], perm=[1, 0]))
        if found is None:
            continue
        offset, length = found
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": weights.name, "offset": str(offset), "length": str(length)}.items():
            tensor.external_data.add(key=key, value=value)


def _places(weights: Path) -> dict[tuple[tuple[int, ...], bytes], tuple[int, int]]:
    """Offset and length in the file of each float16 tensor, by shape and content."""
    content = weights.read_bytes()
    size = int.from_bytes(content[:HEADER], "little")
    header = json.loads(content[HEADER : HEADER + size])
    found = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F16":
            low, high = (HEADER + size + offset for offset in about["data_offsets"])
            found[tuple(about["shape"]), content[low:high]] = (low, high - low)
    return found
