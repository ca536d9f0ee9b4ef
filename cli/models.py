"""`search models`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.options import Json
from cli.show.output import size, write_line

EMBEDDED = "lite"


@dataclass(frozen=True)
class Recommended:
    """An open_clip model. recall: COCO text->image R@1 in percent, as published in open_clip's table of retrieval
    results or, for MobileCLIP2, by Apple. megabytes: size of its float32 weights."""

    name: str
    recall: float
    megabytes: int
    licence: str


RECOMMENDED = (
    Recommended("ViT-B-32:laion2b_s34b_b79k", 39.3, 605, "MIT"),
    Recommended("MobileCLIP2-S0:dfndr2b", 43.7, 300, "Apple ML research: not for products"),
    Recommended("ViT-B-16-SigLIP:webli", 47.8, 813, "Apache-2.0"),
    Recommended("MobileCLIP2-S2:dfndr2b", 48.8, 397, "Apple ML research: not for products"),
    Recommended("MobileCLIP2-B:dfndr2b", 49.9, 600, "Apple ML research: not for products"),
    Recommended("MobileCLIP2-S4:dfndr2b", 51.5, 1780, "Apple ML research: not for products"),
    Recommended("ViT-SO400M-14-SigLIP-384:webli", 54.2, 3512, "Apache-2.0"),
)


def models(as_json: Json = False) -> None:
    """List the embedded model, those in the local cache, and open_clip models worth their size."""
    embedded = sum(path.stat().st_size for folder in _embedded_folders() for path in folder.iterdir())
    cached = cached_models()
    if as_json:
        recommended = [asdict(model) for model in RECOMMENDED]
        record = {"embedded": {"name": EMBEDDED, "bytes": embedded}, "cached": cached, "recommended": recommended}
        write_line(json.dumps(record))
        return
    write_line(f"embedded      {EMBEDDED}  {size(embedded)}, no download, no torch")
    write_line(f"in the cache  {', '.join(cached) or 'none'}")
    write_line("recommended   COCO text->image R@1 as published, size of the download, licence of the weights")
    for model in RECOMMENDED:
        write_line(f"  {model.name:<31} {model.recall:4.1f}  {size(model.megabytes * 1e6):>7}  {model.licence}")
    write_line("Use one: search index ~/Photos --model NAME (needs crosslook[torch], or crosslook[gpu] with a GPU)")


def cached_models() -> list[str]:
    """Repositories in the model hub's cache that hold open_clip weights; empty if there is no cache."""
    home = os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")
    hub = Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")))
    if not hub.is_dir():
        return []
    folders = (folder for folder in sorted(hub.glob("models--*")) if any(folder.glob("snapshots/*/open_clip_*")))
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


def _embedded_folders() -> list[Path]:
    from retrieval.encoders.lite import HEADS, TOWERS

    return [folder for folder in (TOWERS, HEADS) if folder.is_dir()]
