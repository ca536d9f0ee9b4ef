"""Sample photos, from packages that carry some: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from indexes.errors import CrosslookError

SAMPLES = {
    "skimage": [
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/clock_motion.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/moon.png",
        "data/motorcycle_left.png",
        "data/page.png",
        "data/retina.jpg",
        "data/rocket.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}


def gather_samples(folder: Path) -> list[Path]:
    """Copies the sample photos of the installed packages into a folder, which is made; returns the copies, at most 18.

    Raises `CrosslookError` if none of the packages is installed."""
    photos: list[Path] = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        roots = [Path(root) for root in (spec.submodule_search_locations if spec else None) or ()]
        photos += [root / name for root in roots for name in names if (root / name).is_file()]
    if not photos:
        raise CrosslookError("no sample photos: pip install 'crosslook[demo]'")
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / photo.name for photo in photos]
    for photo, copy in zip(photos, copies, strict=True):
        shutil.copy2(photo, copy)
    return copies
