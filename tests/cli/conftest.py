"""The real command over real photos."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from retrieval.samples import gather_samples
from tests.cli.running import Run, run_here, run_process
from tests.support import FakeEncoder, write_photos


@pytest.fixture
def search(tmp_path: Path) -> Run:
    """Run `search` with some words in this process. The home folder, the default collection and the model cache are
    temporary. index: the default collection. env: further variables of the environment."""

    def run(
        *words: object, index: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run_here(*words, env=_environment(tmp_path, index) | (env or {}))

    return run


@pytest.fixture
def search_process(tmp_path: Path) -> Run:
    """The same in another process."""

    def run(
        *words: object, index: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run_process(*words, env=_environment(tmp_path, index) | (env or {}))

    return run


@pytest.fixture
def search_after(tmp_path: Path) -> Run:
    """Run `search` with some words after a script, in another process; see `run_process`."""

    def run(
        script: str, *words: object, shell: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run_process(*words, env=_environment(tmp_path, None) | (env or {}), script=script, shell=shell)

    return run


def _environment(home: Path, index: Path | None) -> dict[str, str]:
    return {"HOME": str(home)} | ({"CROSSLOOK_INDEX": str(index)} if index else {})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four photos: 000.png, 001.png, ..."""
    write_photos(tmp_path / "photos", 4)
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a collection that does not exist yet."""
    return tmp_path / "collection"


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model in this process is a `FakeEncoder`, which starts faster than a real one."""
    for module in ("retrieval.encoders", "retrieval.engine"):
        monkeypatch.setattr(f"{module}.load_encoder", lambda *arguments, **options: FakeEncoder())


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
