"""Names in the files of a model directory (`config.json`, `model.safetensors`) and in the checkpoints of a run, where
they differ from the names in the code.

They are part of the format on disk and never change; the code's names may. This is the only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from retrieval.training.model.heads import HeadSettings
from retrieval.training.model.model import ModelSettings
from retrieval.training.model.reader import ReaderSettings
from retrieval.training.model.regions import RegionSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", HeadSettings, RegionSettings, ReaderSettings)

# Name of a settings' field -> its key in `config.json` and in a run's key.
KEYS: dict[type, dict[str, str]] = {
    HeadSettings: {
        "ensemble": "members",
        "region_dim": "regions",
        "token_dim": "words",
        "token_dropout": "word_dropout",
    },
    RegionSettings: {"global_dim": "whole"},
    ReaderSettings: {
        "cross_attention_layers": "looks",
        "token_dropout": "word_dropout",
        "label_smoothing": "smoothing",
        "max_tokens": "longest",
    },
}

PLAIN = (bool, int, float, str)  # values that JSON can hold; others are nested settings

# One part of a tensor's dotted name in the code -> the same part in `model.safetensors`.
PARTS = {
    # heads and regions
    "pooled_perceptron": "pooled",
    "embedding_perceptron": "whole",
    "cell_projection": "cell",
    "cell_positions": "place",
    "token_projection": "word",
    "pool_projection": "attended",
    # reader
    "input_projection": "enter",
    "position_embeddings": "places",
    "self_attention_layer": "words",
    "cross_attention_layers": "looks",
    "final_norm": "leave",
    "leading_tokens": "leading",
    "rest_estimator": "rest",
    "output_projection": "outputs",
    "token_bias": "common",
    # blocks
    "attention_norm": "before_attention",
    "feed_forward_norm": "before_feed",
    "feed_forward": "feed",
    "q_proj": "queries",
    "k_proj": "keys",
    "v_proj": "values",
    "out_proj": "out",
}


def stored_name(name: str) -> str:
    """The name on disk of the tensor that a module's `state_dict` calls `name`."""
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def stored_settings(settings: DataclassInstance) -> dict[str, Any]:
    """Settings by their names on disk, nested as they are. Of a `ModelSettings` it is the section "model" of
    `config.json`; of a `TrainSettings` it is what a run's key identifies."""
    keys = KEYS.get(type(settings), {})
    values = ((keys.get(field.name, field.name), getattr(settings, field.name)) for field in fields(settings))
    return {key: value if isinstance(value, PLAIN) else stored_settings(value) for key, value in values}


def settings_of(stored: Mapping[str, Mapping[str, Any]]) -> ModelSettings:
    """The settings that a section "model" of `config.json` holds."""
    return ModelSettings(
        _from_stored(HeadSettings, stored["heads"]),
        _from_stored(RegionSettings, stored["regions"]),
        _from_stored(ReaderSettings, stored["reader"]),
    )


def _from_stored(kind: type[S], stored: Mapping[str, Any]) -> S:
    keys = KEYS[kind]
    return kind(**{field.name: stored[keys.get(field.name, field.name)] for field in fields(kind)})
