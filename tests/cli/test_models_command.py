"""`search models`."""

from __future__ import annotations

import json

import pytest


def test_models_lists_the_embedded_the_cached_and_the_recommended(search, tmp_path):
    hub = tmp_path / "hub" / "hub" / "models--laion--CLIP-test" / "snapshots" / "0"
    hub.mkdir(parents=True)
    (hub / "open_clip_config.json").write_text("{}")
    text = search("models", env={"HF_HOME": str(tmp_path / "hub")}).stdout
    assert "lite" in text and "laion/CLIP-test" in text and "ViT-SO400M-14-SigLIP-384:webli" in text
    record = json.loads(search("models", "--json", env={"HF_HOME": str(tmp_path / "hub")}).stdout)
    assert record["cached"] == ["laion/CLIP-test"] and record["recommended"][0]["recall"] == 39.3


@pytest.mark.torch
def test_open_clip_knows_the_recommended_models():
    import open_clip

    from cli.models import RECOMMENDED

    for model in RECOMMENDED:
        name, tag = model.name.split(":")
        assert tag in open_clip.list_pretrained_tags_by_model(name)
