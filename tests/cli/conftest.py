"""The real command, in a process of its own, over real photos."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.demo import gather_samples

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def search(tmp_path: Path) -> Run:
    """Run `search` with some words; the home folder, the default collection and the model cache are temporary."""

    def run(*words: object, index: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HOME": str(tmp_path), "PYTHONUTF8": "1"}
        environment |= {"CROSSLOOK_INDEX": str(index)} if index else {}
        environment |= options.pop("env", {})  # type: ignore[call-overload, operator]
        command = [sys.executable, "-c", "from cli.main import main; main()", *map(os.fsencode, map(_text, words))]
        root = Path(__file__).parents[2]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            timeout=120,
            env=environment | {"PYTHONPATH": str(root)},
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


FAKE_MODEL = """
import retrieval.encoders, retrieval.engine
from tests.support import FakeEncoder
retrieval.encoders.load_encoder = retrieval.engine.load_encoder = lambda *arguments, **options: FakeEncoder()
"""
ROOT = Path(__file__).parents[2]


def script_command(script: str, *words: object) -> list[str]:
    """What runs `search` with some words in a process where a script has changed something before; it may begin with
    FAKE_MODEL, which starts faster than a real one."""
    arguments = [os.fspath(word) if isinstance(word, Path) else str(word) for word in words]
    script = f"import os, signal, sys\n{script}\nfrom cli.main import main\nmain()"
    return [sys.executable, "-c", script, *arguments]


@pytest.fixture
def search_after(tmp_path: Path) -> Run:
    """Run `search` with some words after a script, see `script_command`; `shell`: its redirections in bash."""

    def run(
        script: str, *words: object, shell: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f'"$@" {shell}', "bash", *script_command(script, *words)],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            timeout=60,
            env=os.environ | {"HOME": str(tmp_path), "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)} | (env or {}),
            cwd=ROOT,
            check=False,
        )

    return run


def _text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes | Path) else str(word)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sample photos: a cat, a cup of coffee, a rocket ..."""
    folder = tmp_path_factory.mktemp("samples") / "photos"
    gather_samples(folder)
    return folder


@pytest.fixture(scope="session")
def indexed(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of the sample photos; tests only read it."""
    from retrieval.encoders import load_encoder
    from retrieval.indexing.pipeline import index_folders

    path = tmp_path_factory.mktemp("indexed") / "collection"
    index_folders([samples], path, load_encoder(device="cpu"))
    return path
