"""Colour profiles, built from the numbers that define them."""

from __future__ import annotations

import struct

import numpy as np

# XYZ of the three primaries, adapted to D50, and gamma, as in the profiles of Apple and Adobe.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
GAMMA = 2.19921875


def rgb_profile(colorants, gamma=GAMMA, description="a display"):
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    tags = {b"wtpt": _xyz((0.9642, 1, 0.8249))}
    for name, colorant in zip("rgb", np.asarray(colorants).T, strict=True):
        tags |= {f"{name}XYZ".encode(): _xyz(colorant), f"{name}TRC".encode(): curve}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags, description)


def grey_profile(gamma, description="a scanner"):
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz((0.9642, 1, 0.8249)), b"kTRC": curve}, description)


def cmyk_profile(colour_of_inks, description="a press"):
    """colour_of_inks: (C, M, Y, K), each 0 or 1 -> (L, a, b) of that corner; colours between corners are
    interpolated."""
    corners = bytearray()
    for corner in range(16):
        lightness, a, b = colour_of_inks(*((corner >> shift) & 1 for shift in (3, 2, 1, 0)))
        corners += bytes((round(lightness * 2.55), round(a + 128), round(b + 128)))
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    table = b"mft1" + struct.pack(">IBBBB", 0, 4, 3, 2, 0) + identity + ramp * 4 + bytes(corners) + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"wtpt": _xyz((0.9642, 1, 0.8249))}, description)


def to_srgb(rgb, colorants, gamma=GAMMA):
    """The slow conversion, through linear light and XYZ."""
    xyz = (rgb / 255.0) ** gamma @ np.asarray(colorants).T
    linear = np.clip(xyz @ np.linalg.inv(SRGB).T, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def _xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(kind, space, connection, tags, description):
    text = description.encode() + b"\0"
    tags = tags | {
        b"desc": b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
    }
    body, entries, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        entries += name + struct.pack(">II", offset + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
