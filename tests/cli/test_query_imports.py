"""What the command line imports to answer a query in an environment with torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import index_folders
from tests.support import write_photos

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "sentence_transformers")


@pytest.mark.torch
def test_nothing_heavy_is_imported_where_it_is_installed(tmp_path: Path) -> None:
    """With `lite`, in a new process."""
    write_photos(tmp_path / "photos", 2)
    index_folders([tmp_path / "photos"], tmp_path / "c", load_encoder())
    script = f"""
import sys
from cli.commands import app
sys.argv[1:] = ["-i", {str(tmp_path / "c")!r}, "a dog"]
app(standalone_mode=False)
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "LOADED []"
