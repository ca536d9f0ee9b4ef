"""The image tower of `lite` as torch modules: EfficientNet-Lite0 and Lite2, with the weights of `image.onnx`.

EfficientNet (Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks") stacks
inverted residuals (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks"), with c channels in:

    x -> 1x1 convolution to e c channels -> ReLU6 -> k x k convolution of single channels -> ReLU6 -> 1x1 convolution

and x is added where the shapes agree. EfficientNet-Lite (https://github.com/tensorflow/tpu, models/official/
efficientnet/lite) leaves out squeeze-and-excitation, clips activations to 0..6, and does not scale stem and head. Batch
norms are folded into the convolutions before them, so that each of these has a bias."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import pad, relu6

from indexes.errors import CrosslookError
from retrieval.encoders.onnx_files import constants_of, read_graph
from retrieval.encoders.torch_start import without_random_weights

if TYPE_CHECKING:
    from torch import Tensor

STAGES = (  # of Lite0: kernel k, stride, expansion e, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MAP_STAGES = (2, 4, 6)  # whose outputs are the maps of stride 8, 16 and 32
STEM, HEAD, CLASSES = 32, 1280, 1000  # channels
LITE0, LITE2 = (1.0, 1.0), (1.1, 1.2)  # factors of channels and of repeats


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding "same": ceil(size / stride) outputs, and where the padding is odd, the
    larger part at the right and at the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """float [n, inputs, height, width] -> [n, outputs, ceil(height / stride), ceil(width / stride)]."""
        if self.stride[0] > 1:
            (top, bottom), (left, right) = (self._padding_of(size) for size in x.shape[2:])
            x = pad(x, (left, right, top, bottom))
        return super().forward(x)

    def _padding_of(self, size: int) -> tuple[int, int]:
        stride, kernel = self.stride[0], self.kernel_size[0]
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """See the module's docstring. With e = 1 the first convolution is left out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = Convolution(inputs, width, 1) if expansion > 1 else None
        self.depthwise = Convolution(width, width, kernel, stride, groups=width)
        self.project = Convolution(width, outputs, 1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else relu6(self.expand(x), inplace=True)
        inner = self.project(relu6(self.depthwise(inner), inplace=True))
        return x + inner if self.is_residual else inner


class EfficientNetLite(nn.Module):
    """The classifier with its maps of three depths."""

    def __init__(self, width: float, depth: float) -> None:
        """width: factor of the channels of Lite0. depth: factor of the repeats of all stages but the first and last."""
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        self.stages, inputs = nn.ModuleList(), STEM
        for index, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            count = repeats if index in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            outputs, blocks = _channels(channels * width), []
            for repeat in range(count):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.head = Convolution(inputs, HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x: float [n, 3, side, side], -1 to 1. Returns the class logits, [n, 1000], and the maps of stride 8, 16
        and 32, [n, channels, side / stride, side / stride]."""
        x, maps = relu6(self.stem(x), inplace=True), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in MAP_STAGES:
                maps.append(x)
        return self.classifier(relu6(self.head(x), inplace=True).mean((2, 3))), maps


def _channels(scaled: float) -> int:
    """The multiple of 8 next to it, at least nine tenths of it."""
    channels = max(8, int(scaled + 4) // 8 * 8)
    return channels if channels >= 0.9 * scaled else channels + 8


class ImageTower(nn.Module):
    """Both classifiers: levels -> the mean of their class logits, and maps of three depths. stride8 and stride16 are
    those of the larger one; stride32 concatenates the channels of both, the larger one's first."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = EfficientNetLite(*LITE0), EfficientNetLite(*LITE2)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """levels: [n, 3, side, side], 0 to 255. Returns logits [n, 1000], stride8 [n, 48, side / 8, side / 8], stride16
        [n, 120, ...] and stride32 [n, 672, ...]."""
        x = (levels.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
        small, (*_, last) = self.small(x)
        large, (stride8, stride16, stride32) = self.large(x)
        return (small + large) / 2, stride8, stride16, torch.cat([stride32, last], dim=1)


def read_image_tower(path: Path) -> ImageTower:
    """The tower with the weights of `image.onnx`, float32, in evaluation mode. What the file stores in int8 or float16
    is widened as ONNX Runtime widens it, so both compute with the same weights.

    Raises `CrosslookError` for a damaged file, and where `onnx` is not installed."""
    graph = read_graph(path)
    with without_random_weights():
        tower = ImageTower()
    constants = constants_of(graph)
    for operator, kind in (("Conv", nn.Conv2d), ("Gemm", nn.Linear)):  # in the order in which they are computed
        nodes = [node for node in graph.node if node.op_type == operator]
        modules = [module for module in tower.modules() if isinstance(module, kind)]
        try:
            for node, module in zip(nodes, modules, strict=True):
                _set(module, *(constants[name] for name in node.input[1:]))
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise CrosslookError(f"cannot read {path}: it is of another version (reinstall crosslook)") from error
    return tower.eval()


def _set(module: Any, weight: Any, bias: Any) -> None:
    parts = {"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())}
    module.load_state_dict(parts, assign=True)
