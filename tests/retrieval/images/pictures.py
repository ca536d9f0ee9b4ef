"""Pictures of which every pixel is known from their construction."""

from __future__ import annotations

import numpy as np
from PIL import Image


def picture(width=48, height=32):
    """uint8 [h, w, 3]. Smooth, so that lossy formats keep it. It differs from itself in any other orientation."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, across * down / 255], axis=2).astype(np.uint8)


GREY = picture()[..., 2]
ALPHA = picture()[..., 0]  # transparent at the left, opaque at the right
BILEVEL = np.random.default_rng(0).integers(0, 2, (8, 12)).repeat(4, 0).repeat(4, 1)
INDICES = (np.arange(32)[:, None] // 4 * 12 + np.arange(48) // 4).astype(np.uint8)
PALETTE = picture()[::4, ::4].reshape(-1, 3)
OTHER = 255 - picture()


def in_palette():
    image = Image.frombytes("P", (48, 32), INDICES.tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


def as_rgb(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def with_alpha(values, alpha=ALPHA):
    return np.dstack([values, alpha])


def on_white(rgb, alpha):
    opacity = alpha[..., None] / 255
    return np.rint(rgb * opacity + 255 * (1 - opacity)).astype(np.uint8)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
STORED = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}
