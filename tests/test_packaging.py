"""What an installation brings."""

from __future__ import annotations

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def installed_size(name: str, extras: frozenset[str], seen: dict[str, int]) -> int:
    """Bytes of a distribution and of all that it requires."""
    name = canonicalize_name(name)
    if name in seen:
        return 0
    found = distribution(name)
    seen[name] = sum(size.stat().st_size for file in found.files or () if (size := file.locate()).is_file())  # type: ignore[attr-defined]
    total = seen[name]
    for line in found.requires or ():
        requirement = Requirement(line)
        wanted = any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
        )
        if wanted:
            total += installed_size(requirement.name, frozenset(requirement.extras), seen)
    return total


def test_base_and_cpu_stay_under_600_megabytes_and_bring_no_torch():
    seen: dict[str, int] = {}
    total = installed_size("crosslook", frozenset({"", "cpu"}), seen)
    assert total < 600e6, sorted(seen.items(), key=lambda item: -item[1])[:10]
    assert {"faiss-cpu", "onnxruntime", "pyarrow"} <= set(seen)
    assert not {"torch", "transformers", "timm", "open-clip-torch"} & set(seen)
