"""Random views of many photos at once on the device of the training: crop, resize, jitter, mirror.

They are the views that `views.view` makes with Pillow, from the same random numbers: crops are resized by two matrix
products, as in `retrieval.encoders.resampling`, and colours shifted by Pillow's formulas. The weights of a pass depend
on the crop, so they are computed on the device too. Results differ by a level or two where float32 sums decide a tie
the other way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.on_device.precision import full_float32
from retrieval.encoders.resampling import PRECISION, columns_first
from retrieval.training.data.views import RandomView
from retrieval.training.parallel import on_device

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_AT_ONCE = 30_000_000  # that are float32 at once
SUPPORT = 2.0  # of the bicubic kernel
GREY = (19595, 38470, 7471)  # weights of red, green and blue in Pillow's grey, of 65536


def device_views(pixels: Tensor, sizes: Sequence[tuple[int, int]], views: Sequence[RandomView], side: int) -> Tensor:
    """Levels, float32 [n, 3, side, side], whole numbers from 0 to 255, on the device of the training.

    pixels: uint8 [bytes] on that device, the photos [h, w, 3] one after the other. sizes: (h, w) of each, any. views:
    one of each."""
    result = torch.empty((len(sizes), 3, side, side), device=pixels.device)
    starts = [0, *accumulate(3 * height * width for height, width in sizes)]
    for is_tall, chunk in _chunks(sizes, side):
        height, width = (max(sizes[index][axis] for index in chunk) for axis in (0, 1))
        canvas = torch.zeros((len(chunk), height, width, 3), dtype=torch.uint8, device=pixels.device)
        for row, index in enumerate(chunk):
            photo = pixels[starts[index] : starts[index + 1]].view(*sizes[index], 3)
            canvas[row, : photo.shape[0], : photo.shape[1]] = photo
        boxes = np.array([views[index].box(sizes[index][1], sizes[index][0]) for index in chunk])
        lengths = np.array([sizes[index] for index in chunk])
        across = weights_of(boxes[:, [0, 2]], lengths[:, 1], width, side).transpose(1, 2).unsqueeze(1)
        down = weights_of(boxes[:, [1, 3]], lengths[:, 0], height, side).unsqueeze(1)
        values = canvas.permute(0, 3, 1, 2).float()
        with full_float32():
            if is_tall:
                levels = _rounded(_rounded(down @ values) @ across)
            else:
                levels = _rounded(down @ _rounded(values @ across))
        levels = _jittered(levels, [views[index].factors for index in chunk])
        mirrored = on_device(np.array([views[index].mirrored for index in chunk]))
        result[on_device(np.array(chunk))] = torch.where(mirrored[:, None, None, None], levels.flip(3), levels)
    return result


def _chunks(sizes: Sequence[tuple[int, int]], side: int) -> list[tuple[bool, list[int]]]:
    """Photos of similar sizes, whose common canvas is small enough, and whether their columns are resampled first."""
    keys = [(columns_first(width, height, side, side), height, width) for height, width in sizes]
    chunks: list[tuple[bool, list[int]]] = []
    height = width = 0
    for index in sorted(range(len(sizes)), key=lambda index: keys[index]):
        is_tall, *size = keys[index]
        height, width = max(height, size[0]), max(width, size[1])
        is_full = bool(chunks) and (len(chunks[-1][1]) + 1) * height * width > PIXELS_AT_ONCE
        if not chunks or is_full or chunks[-1][0] != is_tall:
            chunks.append((is_tall, []))
            height, width = size
        chunks[-1][1].append(index)
    return chunks


def weights_of(ends: NDArray[np.float64], lengths: NDArray[np.int64], longest: int, side: int) -> Tensor:
    """The weights of one pass of Pillow's bicubic resizing, float32 [n, side, longest].

    ends: float64 [n, 2], where the crops begin and end, in pixels. lengths: int64 [n], of the photos."""
    begin, end = on_device(ends).unbind(1)
    scale = ((end - begin) / side)[:, None, None]
    widening = scale.clamp(min=1.0)  # where a picture shrinks, the kernel covers as many pixels more
    centers = begin[:, None, None] + (torch.arange(side, dtype=torch.float64)[None, :, None] + 0.5) * scale
    low = (centers - SUPPORT * widening + 0.5).trunc().clamp(min=0)
    high = torch.minimum((centers + SUPPORT * widening + 0.5).trunc(), on_device(lengths)[:, None, None])
    columns = torch.arange(longest, dtype=torch.float64)
    weights = _bicubic((columns - centers + 0.5) / widening) * ((columns >= low) & (columns < high))
    weights /= weights.sum(2, keepdim=True)
    return (
        (weights * PRECISION + torch.copysign(torch.tensor(0.5, dtype=torch.float64), weights)).trunc() / PRECISION
    ).float()


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def _jittered(levels: Tensor, factors: Sequence[tuple[float, float, float]]) -> Tensor:
    """With brightness, contrast and colour multiplied by three factors each, in this order, as Pillow's `ImageEnhance`
    does. levels: float [n, 3, h, w]."""
    brightness, contrast, colour = on_device(np.array(factors, np.float32)).T[:, :, None, None, None]
    levels = _blended(torch.zeros((), device=levels.device), levels, brightness)
    mean = (_grey(levels).mean((1, 2, 3), keepdim=True, dtype=torch.float64) + 0.5).floor().float()
    levels = _blended(mean, levels, contrast)
    return _blended(_grey(levels), levels, colour)


def _blended(start: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    return (start + factor * (levels - start)).clamp(0, 255).trunc()


def _grey(levels: Tensor) -> Tensor:
    """float [n, 1, h, w]. Sums of whole numbers below 2^24 are exact."""
    red, green, blue = levels.split(1, dim=1)
    return ((GREY[0] * red + GREY[1] * green + GREY[2] * blue + 32768) / 65536).floor()


def _rounded(values: Tensor) -> Tensor:
    """Levels, 0 to 255; halves up, as Pillow."""
    return (values + 0.5).floor_().clamp_(0, 255)
