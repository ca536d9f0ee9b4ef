"""ONNX files: export of torch modules, weights stored in fewer bits, and how they are read back."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError

OPSET = 17


def export(
    module: Any, inputs: tuple[Any, ...], names: list[str], outputs: list[str], axes: dict[str, Any], fold: bool = True
) -> Any:
    """A torch module as an ONNX model. fold: compute nodes that depend on weights only now, instead of at each load."""
    import io

    import onnx
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            do_constant_folding=fold,
        )
    return onnx.load_from_string(buffer.getvalue())


def save(model: Any, out: Path) -> None:
    import onnx

    out.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(out))  # by path, so that weights kept in a file beside it are found


def store_as_half(model: Any, smallest: int = 1024) -> None:
    """Store every float32 weight of at least `smallest` values as float16 behind a Cast."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= smallest]
    for tensor in weights:
        half = tensor.name + "_half"
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
        graph.node.insert(0, helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT))


def store_as_bytes(model: Any, smallest: int = 16384) -> None:
    """Store every float32 weight of at least `smallest` values as int8, with a scale for each output channel, behind a
    Cast and a Mul. Smaller weights belong to the first stages, whose errors spread through all others."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= smallest]
    for tensor in weights:
        values = numpy_helper.to_array(tensor)
        scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127.0
        scale = np.maximum(scale, np.finfo(np.float32).tiny)  # for channels of zeros
        narrow, scales, wide = (tensor.name + end for end in ("_bytes", "_scales", "_wide"))
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), narrow))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), scales))
        graph.node.insert(0, helper.make_node("Mul", [wide, scales], [tensor.name]))
        graph.node.insert(0, helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT))


def quantize_token_table(model: Any) -> None:
    """Store the largest table that a Gather reads as int8, with a float32 scale for each row."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    gather = max(gathers, key=lambda node: int(np.prod(tables[node.input[0]].dims)))
    table = tables[gather.input[0]]
    rows = numpy_helper.to_array(table)
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127.0
    graph.initializer.remove(table)
    graph.initializer.append(numpy_helper.from_array(np.rint(rows / scale).astype(np.int8), "word_rows"))
    graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), "word_scale"))
    position = list(graph.node).index(gather)
    replacement = [
        helper.make_node("Gather", ["word_rows", gather.input[1]], ["word_row"]),
        helper.make_node("Cast", ["word_row"], ["word_row_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["word_scale", gather.input[1]], ["word_row_scale"]),
        helper.make_node("Mul", ["word_row_float", "word_row_scale"], list(gather.output)),
    ]
    graph.node.remove(gather)
    for node in reversed(replacement):
        graph.node.insert(position, node)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_graph(path: Path) -> Any:
    """The graph of an ONNX file that ships with the package.

    Raises `CrosslookError` for a missing or damaged file, and where `onnx` is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise CrosslookError("reading weights for a GPU needs onnx: pip install 'crosslook[gpu]'") from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # the parser's errors share no base class with those of the system
        raise CrosslookError(f"cannot read {path}: it is missing or damaged (reinstall crosslook)") from error
    return graph


def constants_of(graph: Any) -> dict[str, NDArray[Any]]:
    """The weights of a graph by name, as ONNX Runtime computes them when it loads the file: float16 and int8 ones
    widened by Cast, and scaled by Mul."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if not all(name in constants for name in node.input):
            continue
        inputs = [constants[name] for name in node.input]
        if node.op_type == "Cast":
            constants[node.output[0]] = inputs[0].astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        elif node.op_type == "Mul":
            constants[node.output[0]] = inputs[0] * inputs[1]
    return constants
