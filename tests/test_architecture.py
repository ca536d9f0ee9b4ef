"""The source tree keeps its rules, and every rule notices what it forbids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import index_folders
from tests import architecture
from tests.architecture import RULES, Tree
from tests.support import write_photos

ROOT = Path(__file__).parents[1]
# Modules that no query needs. `rich`, `PIL` and `faiss` are needed for a bar, a picture and a large collection only.
HEAVY = {
    *("torch", "torchvision", "timm", "transformers", "open_clip", "onnx", "onnxscript", "huggingface_hub", "ftfy"),
    *("matplotlib", "skimage", "sklearn", "scipy", "pandas", "rich", "PIL", "pillow_heif", "faiss", "requests"),
    *("pyarrow.compute", "pyarrow.dataset", "asyncio", "concurrent.futures.process"),
    *("retrieval.training", "retrieval.indexing", "retrieval.captions", "retrieval.evaluation", "cli.show.progress"),
}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(tree, rule):
    assert rule(tree) == []


def test_the_tree_is_read(tree):
    """Without modules the test above would show nothing."""
    assert len(tree.modules) > 200
    assert "indexes.collection" in tree.imports["retrieval.engine"]
    assert "retrieval.engine" in tree.imports["cli.query"], "in a function"


@pytest.fixture
def made(tmp_path):
    """A tree of the given files; the three packages have docstrings."""

    def make(files: dict[str, str]) -> Tree:
        packages = {f"{layer}/__init__.py": '"""A layer."""' for layer in architecture.LAYERS}
        for name, text in (packages | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return Tree(tmp_path)

    return make


CIRCLES = {
    "two modules": {"cli/a.py": "import cli.b", "cli/b.py": "from cli.a import x"},
    "three": {"cli/a.py": "from cli import b", "cli/b.py": "from cli import c", "cli/c.py": "from cli import a"},
    "in a function": {"cli/a.py": "import cli.b", "cli/b.py": "def f():\n    from cli.a import x"},
    "for types": {"cli/a.py": "import cli.b", "cli/b.py": "if TYPE_CHECKING:\n    from cli.a import X"},
    "a package": {"cli/show/__init__.py": "from cli.show.b import x", "cli/show/b.py": "from cli.show import y"},
    "relative": {"cli/a.py": "from . import b", "cli/b.py": "from .a import x"},
    "of tests": {"tests/a.py": "from tests.b import x", "tests/b.py": "from tests.a import y"},
}


@pytest.mark.parametrize("files", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_is_noticed(made, files):
    assert len(architecture.circles(made(files))) == 1


def test_modules_of_one_package_are_no_circle(made):
    files = {
        "cli/show/__init__.py": "from cli.show.b import x",
        "cli/show/b.py": "import cli.show.c",
        "cli/show/c.py": "",
    }
    assert architecture.circles(made(files)) == []


ARROWS = {
    "indexes to retrieval": {"indexes/a.py": "from retrieval import b", "retrieval/b.py": ""},
    "indexes to cli": {"indexes/a.py": "def f():\n    import cli.b", "cli/b.py": ""},
    "retrieval to cli": {"retrieval/a.py": "if TYPE_CHECKING:\n    from cli.b import B", "cli/b.py": ""},
    "a package to tests": {"retrieval/a.py": "from tests.b import x", "tests/b.py": ""},
    "a package to benchmarks": {"indexes/a.py": "import benchmarks.b", "benchmarks/b.py": ""},
    "tests of indexes to retrieval": {"tests/indexes/a.py": "from retrieval.b import x", "retrieval/b.py": ""},
    "tests of indexes to those of retrieval": {
        "tests/indexes/a.py": "import tests.retrieval.b",
        "tests/retrieval/b.py": "",
    },
    "tests of retrieval to cli": {"tests/retrieval/x/a.py": "from cli.b import x", "cli/b.py": ""},
    "by way of shared modules": {
        "tests/indexes/a.py": "from tests.b import x",
        "tests/b.py": "from tests.c import x",
        "tests/c.py": "import retrieval.d",
        "retrieval/d.py": "",
    },
}


@pytest.mark.parametrize("files", ARROWS.values(), ids=ARROWS)
def test_an_arrow_upwards_is_noticed(made, files):
    assert len(architecture.arrows_upwards(made(files))) == 1


def test_arrows_downwards_are_none_upwards(made):
    files = {
        "indexes/a.py": "",
        "retrieval/b.py": "from indexes.a import x",
        "cli/c.py": "import retrieval.b, indexes.a",
        "tests/retrieval/d.py": "from tests.e import x\nimport retrieval.b",
        "tests/e.py": "import indexes.a",
        "tests/f.py": "import cli.c",
        "benchmarks/g.py": "from cli import c",
    }
    assert architecture.arrows_upwards(made(files)) == []


def test_a_long_file_without_a_reason_is_noticed(made):
    lines = "\n" * 301
    files = {
        "cli/a.py": f'"""A question."""{lines}',
        "cli/b.py": f'"""A question.\n\nLong because it is one table."""{lines}',
        "cli/c.py": '"""A question."""\n',
    }
    assert architecture.long_files(made(files)) == ["cli/a.py has 301 lines and no reason"]


def test_a_folder_without_a_docstring_is_noticed(made):
    files = {
        "cli/a/b.py": "",
        "cli/c/__init__.py": "x = 1",
        "cli/d/__init__.py": '"""A question."""',
        "tests/e/f.py": "",
    }
    assert architecture.folders_without_docstring(made(files)) == [
        "cli/a/__init__.py has no docstring",
        "cli/c/__init__.py has no docstring",
    ]


PRIVATE = {
    "an import": "from cli.a import _hidden",
    "an attribute of a module": "from cli import a\na._hidden()",
    "an attribute of an object": "from cli.a import Thing\nThing()._state",
    "one that is set": "from cli import a\na._hidden = None",
    "one that a test replaces": "def test(monkeypatch):\n    monkeypatch.setattr(a, '_hidden', None)",
    "one that a test replaces by its full name": "def test(patch):\n    patch.setattr('cli.a._hidden', None)",
}


@pytest.mark.parametrize("text", PRIVATE.values(), ids=PRIVATE)
def test_a_private_name_of_another_module_is_noticed(made, text):
    files = {
        "cli/a.py": "def _hidden(): ...\nclass Thing:\n    def __init__(self): self._state = 0",
        "tests/b.py": text,
    }
    assert len(architecture.private_names(made(files))) == 1


def test_private_names_of_the_same_module_and_of_libraries_are_none(made):
    files = {
        "cli/a.py": "import os\ndef _hidden(): ...\n_hidden()\nclass A:\n    _x = 1\nA()._x\nos._exit(0)\n__name__"
    }
    assert architecture.private_names(made(files)) == []


IDENTIFIERS = {
    "a variable": "found = 1",
    "an argument": "def f(each): ...",
    "a function": "def told(): ...",
    "a private function": "def _told(): ...",
    "a class": "class own: ...",
    "an attribute": "x.whole",
    "a keyword": "f(there=1)",
    "a loop's variable": "for said in x: ...",
    "an error": "try: ...\nexcept E as found: ...",
    "an alias": "import x as own",
}


@pytest.mark.parametrize("text", IDENTIFIERS.values(), ids=IDENTIFIERS)
@pytest.mark.parametrize("file", ["indexes/a.py", "tests/retrieval/a.py", "benchmarks/a.py"])
def test_a_forbidden_identifier_is_noticed(made, file, text):
    assert len(architecture.forbidden_identifiers(made({file: text}))) == 1


def test_words_within_names_and_texts_are_allowed(made):
    text = '"""What is found there."""\nall_found = 1  # each\nprint("the whole")'
    assert architecture.forbidden_identifiers(made({"cli/a.py": text})) == []


# What a query imports.

QUERY = """
import json, sys
sys.argv[1:] = json.loads(sys.argv[1])
from cli.main import main
try:
    main()
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted(sys.modules)]))
"""


def modules_after(*words: object) -> set[str]:
    """The modules of a process in which `search` has run."""
    command = [sys.executable, "-c", QUERY, json.dumps([str(word) for word in words])]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=dict(os.environ))
    status, modules = json.loads(run.stdout.splitlines()[-1])
    assert status == 0, run.stderr
    return set(modules)


def heavy(modules: set[str]) -> set[str]:
    """The heavy modules, and those inside heavy packages."""
    return {name for name in modules if any(f"{name}.".startswith(f"{module}.") for module in HEAVY)}


@pytest.mark.parametrize("torch", ["absent", pytest.param("installed", marks=pytest.mark.torch)])
def test_a_query_imports_nothing_heavy(tmp_path, torch):
    write_photos(tmp_path / "photos", 3)
    index_folders([tmp_path / "photos"], tmp_path / "c", load_encoder("lite", "cpu"))
    for words in (["a cat"], ["a cat", "--json"]):
        modules = modules_after(*words, "-i", tmp_path / "c")
        assert "retrieval.engine" in modules and heavy(modules) == set()
    modules = modules_after("a cat", "--in", tmp_path / "photos", "-i", tmp_path / "c")
    assert heavy(modules) <= {"pyarrow.compute"}, "which compares the paths"


def test_heavy_modules_are_noticed():
    assert heavy(
        {"json", "torch", "torch.nn", "pyarrow.compute", "pyarrow", "retrieval.training.run", "retrieval"}
    ) == {
        "torch",
        "torch.nn",
        "pyarrow.compute",
        "retrieval.training.run",
    }
