"""Matrix products in int8, which processors compute some three times as fast as those in float32.

Activations x and weights w are rounded to integers (affine quantisation; Jacob et al. 2018, "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference"):

    x_k   ~ s_x (q_k - z)       q uint8, 0..255; one scale s_x and zero point z for the whole tensor, fixed in advance
    w_k,o ~ s_o p_k,o           p int8, -127..127; one scale s_o = max_k |w_k,o| / 127 for each output o

    (x w)_o ~ s_x s_o * sum over k of (q_k - z) p_k,o

The runtime multiplies and sums in integers: products of uint8 and int8 in int32, scaled to float32 once at the end.
s_x and z are fixed (`fitting.ranges`) and not taken from the batch, so that the result of one row never depends on the
other rows.

7 bits. Ranges are fitted so that all but about two in ten thousand activations lie in 0..127 of 0..255. Processors
without VNNI instructions add pairs of products in int16, which saturates beyond 32,767: two products of 127 * 127 stay
below (32,258), two of 255 * 127 do not (64,770). Attention weights use all 8 bits: they sum to 255 over the regions, so
that a pair of products stays below 255 * 127 (32,385).

Why it is exact enough. A rounding error is at most s_x / 2, and errors average out over the hundreds of terms of a sum:
fusion differs by 0.02 from float32 (root mean square), where those of a text's candidates differ by 0.9. In torch
the same is computed in float32, which is exact for integers below 2^24: 512 products of 255 * 127 stay below that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.onnx import register_custom_op_symbolic
from torch.onnx.symbolic_helper import parse_args

from retrieval.encoders.onnx_files import OPSET

INT8_MAX = 127  # of weights and regions, and of nearly all activations
OUTLIERS = 1e-4  # share of values that may lie beyond either end of a fitted range

# The activations that each cross-attention layer of `IntegerReader` rounds, in the order of the forward pass:
PLACES = (
    "states",  # normed states, times W_Q
    "queries",  # queries of each head, times W_K folded in
    "folded_queries",  # times the regions: attention logits
    "region_means",  # regions averaged by attention weights, times W_V
    "attended",  # heads side by side, times W_O
    "feed_forward_inputs",  # normed states, times W_1
    "feed_forward_hidden",  # after GELU, times W_2
)


def place_of(layer: int, place: str) -> int:
    """Row of a place in `FusionNetwork.ranges`. After the last layer comes one more "states", those of the output
    logits."""
    return len(PLACES) * layer + PLACES.index(place)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """p: int8 of the same shape, and the scales s_o of the outputs: float [..., 1, out], or [out] for a matrix, as the
    runtime wants them. weight: float [..., in, out]."""
    scales = (weight.abs().amax(-2, keepdim=True) / INT8_MAX).clamp(min=torch.finfo(weight.dtype).tiny)
    return (weight / scales).round().to(torch.int8), scales.flatten() if weight.dim() == 2 else scales


@torch.library.custom_op("crosslook::product", mutates_args=())  # type: ignore[untyped-decorator]
def integer_product(
    x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None, scale: float, zero: int
) -> Tensor:
    """s_x s_o * sum over k of (q_k - z) p_k,o + bias, float [..., n, out]; x is rounded and clamped to q first.

    x: float [..., n, in]. integers: p, int8 [..., in, out]. scales: s_o, float, broadcast to [..., n, out]. bias: float
    [out]. scale: s_x. zero: z, 0 to 255."""
    steps = ((x / scale).round() + zero).clamp(0, 255) - zero
    product = steps @ integers.float() * (scale * scales)
    return product if bias is None else product + bias


@parse_args("v", "v", "v", "v", "f", "i")  # type: ignore[untyped-decorator]
def _exported_product(graph: Any, x: Any, integers: Any, scales: Any, bias: Any, scale: float, zero: int) -> Any:
    """`integer_product` as ONNX: QuantizeLinear, and ONNX Runtime's MatMulIntegerToFloat."""

    def constant(value: float, dtype: torch.dtype) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value, dtype=dtype))

    of_x = constant(scale, torch.float32), constant(zero, torch.uint8)
    inputs = [graph.op("QuantizeLinear", x, *of_x), integers, of_x[0], scales, of_x[1]]
    if not bias.node().mustBeNone():
        inputs += [constant(0, torch.int8), bias]
    product = graph.op("com.microsoft::MatMulIntegerToFloat", *inputs)
    left, right = x.type().varyingSizes(), integers.type().varyingSizes()
    batch = [None] * (max(len(left), len(right)) - 2)
    return product.setType(x.type().with_sizes([*batch, left[-2], right[-1]]))


register_custom_op_symbolic("crosslook::product", _exported_product, OPSET)
