"""Which open_clip model a name means, and how it is loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError
from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.encoders.openclip_onnx import MODEL_FILES
from retrieval.encoders.torch_start import read_ahead, starting, without_random_weights
from retrieval.encoders.weights import remembered_checksum, stamp_of
from retrieval.privacy import from_cache_first

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # of a set of weights without a file's name


def load_openclip(name: str, device: str = "auto") -> OpenClipEncoder:
    """`NAME:PRETRAINED`, or a directory as open_clip writes them (open_clip_config.json and weights).

    Raises `CrosslookError` for an unknown name, an unknown set of weights, weights that cannot be fetched, and where
    torch or open_clip are not installed."""
    read_ahead(Path(name) / HUB_FILES[0] if Path(name).is_dir() else Path(name.partition(":")[2]))
    with starting(device):
        try:
            import open_clip  # noqa: F401
        except ImportError as error:
            raise CrosslookError(
                f"model {name} needs torch and open_clip: pip install 'crosslook[torch]' ('crosslook[gpu]' with a GPU)"
            ) from error
        if Path(name).is_dir():
            return _load_directory(name, device)
        return _load_pretrained(name, device)


def _load_directory(name: str, device: str) -> OpenClipEncoder:
    folder = Path(name)
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES)
    architecture = f"local-dir:{folder.absolute()}"
    return _create(name, architecture, None, _directory_config(folder), device, files)


def _load_pretrained(name: str, device: str) -> OpenClipEncoder:
    import open_clip

    architecture, _, pretrained = name.partition(":")
    if architecture not in open_clip.list_models():
        raise CrosslookError(
            f"open_clip has no model named {architecture}{_closest(architecture, open_clip.list_models())}: "
            "`search models` lists some, or give a model directory"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise CrosslookError(f"{architecture} has no weights named {pretrained!r}: use one of {', '.join(tags)}")
    files = _files_of_hub(architecture, pretrained) if pretrained in tags else [Path(pretrained)]
    return _create(name, architecture, pretrained, open_clip.get_model_config(architecture), device, files)


def _directory_config(folder: Path) -> dict[str, Any]:
    path = folder / "open_clip_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CrosslookError(f"cannot read {path}: it is not a configuration of open_clip") from error
    return config


def _files_of_hub(architecture: str, pretrained: str) -> list[Path]:
    """The files in the hub's cache that may hold a set of weights; none before they are fetched."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = str(open_clip.get_pretrained_cfg(architecture, pretrained).get("hf_hub", "")).rpartition("/")
    names = [file, str(Path(file).with_suffix(".safetensors"))] if file else HUB_FILES
    try:
        paths = [try_to_load_from_cache(repository, name) for name in dict.fromkeys(names)]
    except ValueError:  # not a repository's name
        return []
    return [Path(path) for path in paths if isinstance(path, str)]


def _create(
    name: str, architecture: str, pretrained: str | None, config: dict[str, Any], device: str, files: Sequence[Path]
) -> OpenClipEncoder:
    """files: all that the weights may come from; none if they are not known."""
    import open_clip

    stamp = stamp_of(files)
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # the hub's client logs every retry; the error below says enough
    try:
        with without_random_weights():
            model, _, preprocess = from_cache_first(
                lambda: open_clip.create_model_and_transforms(
                    architecture, pretrained=pretrained, require_pretrained=True
                )
            )
        tokenizer = from_cache_first(lambda: open_clip.get_tokenizer(architecture))
    except Exception as error:  # hub, checkpoint and configuration errors share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = (
            "check that the directory holds open_clip_config.json and weights"
            if architecture.startswith("local-dir:")
            else "they come from the model hub on first use, so check the network, or give a model directory"
        )
        raise CrosslookError(f"cannot load the weights of {name}: {reason}; {remedy}") from error
    finally:
        logging.disable(disabled)
    checksum = remembered_checksum(model, stamp if stamp == stamp_of(files) else None)
    return OpenClipEncoder(name, model, preprocess, tokenizer, config, device, checksum=checksum)


def _closest(name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(name, names, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
