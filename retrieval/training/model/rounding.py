"""Products in integers of 8 bits, which processors compute some three times as fast as those of float32.

Weights are rounded on a scale for each output, when a graph is loaded; what they are multiplied with on one scale,
which is fixed, so that what a row gives never depends on the other rows. All but about one in ten thousand such inputs
keep to 7 of their 8 bits: processors without instructions for this add two products in 16 bits, which two
large inputs of 8 bits with two large weights would overflow. (Weights of attention, which sum to one, cannot, and use
all 8.)

In torch the same is computed in float32, exactly as long as sums stay below 2 ** 24: those of 512 products do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.onnx import register_custom_op_symbolic
from torch.onnx.symbolic_helper import parse_args

from retrieval.encoders.onnx_files import OPSET

LARGEST = 127  # of int8, and of nearly all inputs
OUTSIDE = 1e-4  # share of values that may lie beyond what is fitted to them


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the same shape, float [..., in, out], and the scale of each output, float [..., 1, out], or [out] of a
    matrix, as the runtime wants them."""
    scales = (weight.abs().amax(-2, keepdim=True) / LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)
    return (weight / scales).round().to(torch.int8), scales.flatten() if weight.dim() == 2 else scales


@torch.library.custom_op("crosslook::product", mutates_args=())  # type: ignore[untyped-decorator]
def integer_product(
    x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None, scale: float, zero: int
) -> Tensor:
    """x @ (integers * scales) + bias, float [..., n, out], where x is rounded to a whole number of `scale`, from -zero
    to 255 - zero of them.

    x: float [..., n, in]. integers: int8 [..., in, out]. scales: float, broadcast to [..., n, out]. bias: float
    [out]."""
    steps = ((x / scale).round() + zero).clamp(0, 255) - zero
    found = steps @ integers.float() * (scale * scales)
    return found if bias is None else found + bias


@parse_args("v", "v", "v", "v", "f", "i")  # type: ignore[untyped-decorator]
def _exported_product(graph: Any, x: Any, integers: Any, scales: Any, bias: Any, scale: float, zero: int) -> Any:
    def constant(value: float, dtype: torch.dtype) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value, dtype=dtype))

    of_x = constant(scale, torch.float32), constant(zero, torch.uint8)
    inputs = [graph.op("QuantizeLinear", x, *of_x), integers, of_x[0], scales, of_x[1]]
    if not bias.node().mustBeNone():
        inputs += [constant(0, torch.int8), bias]
    found = graph.op("com.microsoft::MatMulIntegerToFloat", *inputs)
    left, right = x.type().varyingSizes(), integers.type().varyingSizes()
    several = [None] * (max(len(left), len(right)) - 2)
    return found.setType(x.type().with_sizes([*several, left[-2], right[-1]]))


register_custom_op_symbolic("crosslook::product", _exported_product, OPSET)
