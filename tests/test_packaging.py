"""The size of an installation: the wheel's files by `pyproject.toml`, and the distributions that they require."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = [pattern.removesuffix("*") for pattern in SETTINGS["tool"]["setuptools"]["packages"]["find"]["include"]]


def wheel_files() -> set[Path]:
    """The modules of the packages, and the data that the settings name for them."""
    data = SETTINGS["tool"]["setuptools"]["package-data"]
    modules = {file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    return modules | {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in (ROOT / package).glob(pattern)
        if file.is_file()
    }


def add_installed(requirement: Requirement, sizes: dict[str, int]) -> None:
    """Add the bytes of a distribution, and of all that it requires, by name."""
    name = canonicalize_name(requirement.name)
    if name in sizes:
        return
    installed = distribution(name)
    paths = [Path(str(file.locate())) for file in installed.files or ()]
    sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
    for line in installed.requires or ():
        needed = Requirement(line)
        extras = requirement.extras or {""}
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            add_installed(needed, sizes)


def test_base_and_cpu_stay_under_600_megabytes_and_bring_no_torch():
    sizes = {"crosslook": sum(file.stat().st_size for file in wheel_files())}
    project = SETTINGS["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["cpu"]]:
        add_installed(Requirement(line), sizes)
    assert sum(sizes.values()) < 600e6, sorted(sizes.items(), key=lambda item: -item[1])[:10]
    assert sizes["crosslook"] > 50e6, "the weights count"
    assert {"faiss-cpu", "onnxruntime", "pyarrow"} <= set(sizes)
    assert not {"torch", "transformers", "timm", "open-clip-torch"} & set(sizes)


def test_the_wheel_has_the_weights_and_says_that_it_has_types():
    names = {file.relative_to(ROOT).as_posix() for file in wheel_files()}
    assert PACKAGES == ["cli", "retrieval", "indexes"]
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"retrieval/weights/lite/image.onnx", "retrieval/weights/lite-heads/scorer.onnx", "cli/main.py"} <= names
    assert "Typing :: Typed" in SETTINGS["project"]["classifiers"]
