"""What the model card tells of the sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.captions import read_captions

pytestmark = pytest.mark.torch


def test_a_source_is_named_with_its_folder_also_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.training.card import sources_of

    (tmp_path / "flickr").mkdir()
    (tmp_path / "flickr" / "captions.jsonl").write_text('{"image": "a.jpg", "captions": ["A dog."]}\n')
    monkeypatch.chdir(tmp_path / "flickr")
    captions = read_captions(Path("captions.jsonl"))
    assert sources_of([captions]) == f"- flickr/captions.jsonl ({captions.format})"
