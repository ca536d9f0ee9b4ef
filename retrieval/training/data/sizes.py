"""Sizes of the outputs of `lite`'s frozen towers."""

from __future__ import annotations

DIM = 384  # components of a text embedding, and of each half of a token vector
CLASSES = 1000  # ImageNet class logits of an image
GRID = 7
CELLS = GRID * GRID  # of an image
CELL_SIDE = 32  # pixels
MAP_SHAPES = {"stride8": (48, 28, 28), "stride16": (120, 14, 14), "stride32": (672, 7, 7)}  # feature maps of an image
CHANNELS = 672 + 4 * 120 + 4 * 48 + 3 + 3  # of a cell: the three maps, mean colour and its deviation
