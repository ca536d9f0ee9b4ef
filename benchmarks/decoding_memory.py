"""Peak memory of decoding one large picture, for every format, in a process of its own.

    python benchmarks/decoding_memory.py [--megapixels 100] [--at-least 260]

Prints MiB, and bytes per pixel of the picture; `refused` where the picture is above the limit (the default one, or
--max-pixels). Needs Linux."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

KIB = 1024


def peak() -> int:
    """The most bytes that this process has held. (`ru_maxrss` would start with the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


def pictures(side: int) -> dict[str, Callable[[], bytes]]:
    """Format -> function that writes a square picture in it. side: in pixels, a multiple of 500."""
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None
    tile = (np.add.outer(np.arange(500), np.arange(500)) // 4 % 256).astype(np.uint8)
    grey = np.tile(tile, (side // 500, side // 500))

    def save(image: Image.Image, format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    def channels(mode: str) -> Image.Image:
        return Image.merge(mode, [Image.fromarray(grey)] * len(mode))

    def animation(format: str, mode: str = "RGB", **options: object) -> bytes:
        frames = [Image.new(mode, (side, side), value) for value in (0, 1, 255)]
        return save(frames[0], format, save_all=True, append_images=frames[1:], **options)

    return {
        "JPEG": lambda: save(channels("RGB"), "JPEG"),
        "JPEG progressive": lambda: save(channels("RGB"), "JPEG", progressive=True),
        "JPEG progressive 4:4:4": lambda: save(channels("RGB"), "JPEG", progressive=True, subsampling=0),
        "PNG": lambda: save(channels("RGB"), "PNG", compress_level=1),
        "PNG with alpha": lambda: save(channels("RGBA"), "PNG", compress_level=1),
        "PNG of 16 bits": lambda: save(Image.fromarray(grey.astype(np.uint16) * 257), "PNG", compress_level=1),
        "PNG animation": lambda: animation("PNG", compress_level=1),
        "TIFF LZW": lambda: save(channels("RGB"), "TIFF", compression="tiff_lzw"),
        "BMP": lambda: save(Image.fromarray(grey), "BMP"),
        "GIF": lambda: save(Image.fromarray(grey).convert("P"), "GIF"),
        "GIF animation": lambda: animation("GIF", "P"),
        "WebP": lambda: save(channels("RGB"), "WEBP", method=0, quality=20),
        "WebP animation": lambda: animation("WEBP", method=0),
        "HEIC": lambda: save(channels("RGB"), "HEIF", quality=20),
        "AVIF": lambda: save(channels("RGB"), "AVIF", speed=10, quality=20),
        "JPEG 2000": lambda: save(channels("RGB"), "JPEG2000", quality_mode="rates", quality_layers=[100]),
    }


def measure(path: str, min_side: int, max_pixels: int) -> None:
    from importlib import import_module

    from retrieval.images import TooManyPixels, decode

    for name in ("PIL._webp", "PIL._avif", "PIL.ImageCms", "pillow_heif", "PIL.Jpeg2KImagePlugin"):
        import_module(name)
    content = Path(path).read_bytes()
    before = peak()
    try:
        decode(content, min_side, max_pixels)
    except TooManyPixels as error:
        print(f"refused: {error}")
        return
    print(peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=int, default=100)
    parser.add_argument("--at-least", type=int, default=260)
    parser.add_argument("--max-pixels", type=int, default=100, help="megapixels")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of:
        measure(options.of, options.min_side, options.max_pixels * 1_000_000)
        return
    side = round((options.megapixels * 1e6) ** 0.5 / 500) * 500
    with tempfile.TemporaryDirectory() as folder:
        for name, write in pictures(side).items():
            path = Path(folder) / "picture"
            path.write_bytes(write())
            program = [sys.executable, __file__, "--of", str(path), "--at-least", str(options.min_side)]
            program += ["--max-pixels", str(options.max_pixels)]
            printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout.strip()
            if printed.isdigit():
                printed = f"{int(printed) / KIB / KIB:6.0f} MiB, {int(printed) / side**2:4.1f} bytes a pixel"
            print(f"{name:24} {path.stat().st_size / 1e6:6.1f} MB  {printed}", flush=True)


if __name__ == "__main__":
    main()
