"""ONNX graphs that refer to weights in a safetensors file beside them, so that several graphs can share them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 8  # bytes of the length of a safetensors header
HALF = np.dtype("<f2")


def share_weights(model: Any, weights: Path) -> None:
    """Turn the float16 weights of an ONNX graph into references to a safetensors file, if it holds them.

    A weight that the file holds transposed is transposed when the graph is loaded. model: `onnx.ModelProto`, changed in
    place. weights: the safetensors file, in the folder in which the graph will be saved."""
    from onnx import TensorProto, helper

    locations = _locations(weights)
    graph = model.graph
    for tensor in [item for item in graph.initializer if item.data_type == TensorProto.FLOAT16]:
        shape = tuple(tensor.dims)
        values = np.frombuffer(tensor.raw_data, HALF).reshape(shape)
        location = locations.get((shape, values.tobytes()))
        if location is None and len(shape) == 2:
            location = locations.get((shape[::-1], values.T.tobytes()))
            if location is not None:
                transposed, tensor.name = tensor.name, tensor.name + "_turned"
                tensor.dims[:] = shape[::-1]
                graph.node.insert(0, helper.make_node("Transpose", [tensor.name], [transposed], perm=[1, 0]))
        if location is None:
            continue
        offset, length = location
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": weights.name, "offset": str(offset), "length": str(length)}.items():
            tensor.external_data.add(key=key, value=value)


def _locations(weights: Path) -> dict[tuple[tuple[int, ...], bytes], tuple[int, int]]:
    """Offset and length in bytes of each float16 tensor in the file, by shape and content."""
    content = weights.read_bytes()
    size = int.from_bytes(content[:HEADER], "little")
    header = json.loads(content[HEADER : HEADER + size])
    locations = {}
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F16":
            low, high = (HEADER + size + offset for offset in tensor["data_offsets"])
            locations[tuple(tensor["shape"]), content[low:high]] = (low, high - low)
    return locations
