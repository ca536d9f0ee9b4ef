"""FAISS is imported with the fastest kernel that the processor has, and nothing else is told of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from indexes.ann import faiss_module
from indexes.ann.faiss_module import best_kernel, import_faiss
from indexes.errors import CrosslookError

AVX2 = "fpu sse2 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni"
REPORT = """
import os
from indexes.ann import faiss_module
seen = []
class Watching(dict):
    def find_spec(self, name, *_):
        if name == "faiss":
            seen.append(os.environ.get("OPENBLAS_CORETYPE"))
import sys
sys.meta_path.insert(0, Watching())
faiss_module.best_kernel = lambda: "Haswell"
faiss_module.import_faiss()
faiss_module.import_faiss()
print(seen, os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize(
    ("content", "kernel"),
    [
        (f"processor\t: 0\nflags\t\t: {AVX512} amx_int8\n\nprocessor\t: 1\nflags\t\t: fpu\n", "SkylakeX"),
        (f"flags\t\t: {AVX2} avx512f\n", "Haswell"),
        (f"flags\t\t: {AVX2}\n", "Haswell"),
        ("flags\t\t: fpu sse2 avx\n", None),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
        (None, None),
    ],
    ids=["avx512", "half of avx512", "avx2", "old", "arm", "no linux"],
)
def test_a_kernel_is_one_that_the_processor_can_run(tmp_path, monkeypatch, content, kernel):
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(faiss_module, "CPUINFO", tmp_path / "cpuinfo")
    assert best_kernel() == kernel


@pytest.mark.parametrize(
    ("chosen", "seen", "after"), [(None, "['Haswell']", "None"), ("Zen", "['Zen']", "Zen")], ids=["ours", "the user's"]
)
def test_it_is_named_while_faiss_is_imported_alone(chosen, seen, after):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {} if chosen is None else {"OPENBLAS_CORETYPE": chosen}
    run = subprocess.run([sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == f"{seen} {after}"


def test_missing_faiss_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CrosslookError, match=r"crosslook\[cpu\]"):
        import_faiss()
