"""Nothing leaves the machine: no command opens an internet socket or writes where it should not."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.batches import copy_tree_bytes
from tests.guarding import CAN_KILL, ROOT, run_commands, run_guarded, was_killed
from tests.support import write_photos

SENDS_REPORTS = tuple(map(int, metadata.version("onnxruntime").split(".")[:2])) >= (1, 31)
OFFENCES = {
    "a socket": "import socket; socket.socket()",
    "a socket of the new kind": "import socket; socket.socket(socket.AF_INET6)",
    "a name that is looked up": """
import socket
try:
    socket.getaddrinfo("example.org", 443)
except OSError:
    pass
""",
    "a page": """
import urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:9/")
except OSError:
    pass
""",
}
OFFENCES_OF_LIBRARIES = {
    "a socket of C": "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)",
    "a socket of C, of the new kind": "import ctypes; ctypes.CDLL(None).socket(10, 2, 0)",
    "a socket of a thread": """
import ctypes, threading
threading.Thread(target=lambda: ctypes.CDLL(None).socket(2, 1, 0)).start()
""",
}
FILES = {
    "a file at home": 'open(os.path.expanduser("~/x"), "w").close()',
    "a folder at home": 'os.mkdir(os.path.expanduser("~/.x"))',
    "a file of the cache": 'open(os.environ["XDG_CACHE_HOME"] + "/x", "ab").close()',
    "a file that C made": 'ctypes.CDLL(None).creat(os.path.expanduser("~/x").encode(), 0o644)',
    "a file in the working folder": 'ctypes.CDLL(None).creat(b"x", 0o644)',
    "a file that was left in the temporary folder": "tempfile.mkstemp()",
    "a file in the middle of nowhere": 'open(os.path.expanduser("~/../../elsewhere"), "w").close()',
    "a folder of others that is removed": 'os.rmdir(os.path.expanduser("~/../../cwd"))',
}


@pytest.mark.parametrize("script", OFFENCES.values(), ids=OFFENCES)
def test_the_guard_notices(tmp_path, script):
    outcome = run_guarded(script, tmp_path, [])
    assert not outcome.is_clean and any("socket." in line for line in outcome.offences)
    assert was_killed(outcome) == CAN_KILL


@pytest.mark.skipif(not CAN_KILL, reason="needs Linux's filter of calls")
@pytest.mark.parametrize("script", OFFENCES_OF_LIBRARIES.values(), ids=OFFENCES_OF_LIBRARIES)
def test_the_guard_notices_what_does_not_go_through_python(tmp_path, script):
    assert was_killed(run_guarded(script, tmp_path, []))


@pytest.mark.skipif(not CAN_KILL, reason="needs Linux's filter of calls")
def test_the_guard_holds_for_processes_that_are_started(tmp_path):
    script = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", "import socket; socket.socket()"]).returncode != 0)
"""
    assert not run_guarded(script, tmp_path, []).is_clean


@pytest.mark.parametrize("script", FILES.values(), ids=FILES)
def test_the_guard_notices_a_file(tmp_path, script):
    outcome = run_guarded(f"import ctypes, os, tempfile\n{script}", tmp_path, [])
    assert outcome.offences or outcome.appeared


def test_the_guard_lets_pass_what_is_allowed(tmp_path):
    (tmp_path / "mine").mkdir()
    script = f"""
import socket, tempfile
from pathlib import Path
socket.gethostname()
socket.socket(socket.AF_UNIX).close()
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "x").write_text("x")
Path({str(tmp_path / "mine")!r}, "x").write_text("x")
"""
    outcome = run_guarded(script, tmp_path, [tmp_path / "mine"])
    assert outcome.is_clean, outcome


@pytest.mark.skipif(sys.platform != "linux" or not SENDS_REPORTS, reason="this ONNX Runtime does not report")
def test_the_guard_notices_an_onnx_runtime_that_reports(tmp_path):
    """Without the switch it keeps a device id and events in the home folder."""
    model = ROOT / "retrieval/weights/lite-heads/text_head.onnx"
    script = f"""
import importlib
runtime = importlib.import_module("onnxruntime")
runtime.InferenceSession({str(model)!r}, providers=["CPUExecutionProvider"])
"""
    outcome = run_guarded(script, tmp_path, [])
    assert any(".onnxruntime" in name for name in outcome.appeared)


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_reports_are_off_whatever_the_environment_says(tmp_path, value):
    script = """
from retrieval.encoders import load_encoder
import os
load_encoder("lite", "cpu").encode_texts(["a dog"])
print([os.environ[name] for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")])
"""
    environment = {"ORT_DISABLE_TELEMETRY": value, "HF_HUB_DISABLE_TELEMETRY": value, "DO_NOT_TRACK": value}
    outcome = run_guarded(script, tmp_path, [], **environment)
    assert outcome.is_clean and outcome.output.strip() == "['1', '1', '1']", outcome


@pytest.mark.torch
def test_the_hubs_client_sends_no_reports(tmp_path):
    script = """
import retrieval
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers
assert constants.HF_HUB_DISABLE_TELEMETRY
print(build_hf_headers(library_name="open_clip")["user-agent"])
"""
    outcome = run_guarded(script, tmp_path, [])
    assert outcome.is_clean and "torch/" not in outcome.output and "agent/" not in outcome.output, outcome


def test_onnx_runtime_is_imported_in_one_place():
    """An import elsewhere might come before the switch. Scripts inside tests count as well."""
    direct = re.compile(r"^\s*(import|from) onnxruntime\b|import_module\(\"onnxruntime", re.M)
    this_file = Path(__file__).resolve()
    folders = ("benchmarks", "cli", "indexes", "retrieval", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != this_file]
    importing = {path.relative_to(ROOT).as_posix() for path in files if direct.search(path.read_text("utf-8"))}
    assert importing == {"retrieval/encoders/runtime.py"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos with captions, twelve of each."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for row, path in enumerate(write_photos(folder / "photos", 12)):
        split = "dev" if row < 4 else "train"
        lines.append({"image": path.name, "captions": [f"a photo of noise {row}", "many colours"], "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_no_command_opens_a_socket_or_writes_elsewhere(photos, tmp_path):
    pictures, captions, mine = photos / "photos", photos / "captions.jsonl", tmp_path / "mine"
    mine.mkdir()
    (mine / "queries").write_text("red\ngreen\n")
    collection, figures = mine / "collection", mine / "figures.json"
    before = copy_tree_bytes(photos)
    commands = [
        ["index", pictures, "-i", collection],
        ["many colours", "-i", collection],
        ["many colours", "-i", collection, "--json"],
        ["--batch", mine / "queries", "-i", collection],
        ["explain", "many colours", pictures / "000.png", "-i", collection, "--out", mine / "heat.png"],
        ["evaluate", captions, "--images", pictures, "-i", collection, "--json", figures],
        ["evaluate", captions, "--images", pictures, "-i", mine / "none", "--html", mine / "page.html"],
        ["compare", figures, figures],
        ["status", "-i", collection],
        ["optimize", "-i", collection],
        ["remove", pictures / "001.png", "-i", collection],
        ["models"],
    ]
    outcome = run_commands(commands, tmp_path, [mine])
    assert outcome.is_clean, outcome
    assert figures.exists() and copy_tree_bytes(photos) == before


def test_an_index_for_many_images_is_made_without_a_socket(tmp_path):
    """The collection has the size at which `optimize` makes an index, which FAISS computes."""
    (tmp_path / "mine").mkdir()
    script = f"""
from pathlib import Path
import retrieval.indexing.ann_upkeep as ann_upkeep
from indexes.writer import CollectionWriter
from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import binding_of
from tests.batches import make_batch
ann_upkeep.FEWEST_ROWS = 500
binding = binding_of(load_encoder("lite", "cpu"))
folder = Path({str(tmp_path / "mine" / "c")!r})
with CollectionWriter(folder, binding) as writer:
    writer.commit(make_batch(1, 600, binding=binding), folders=["/photos"])
    assert ann_upkeep.update_ann(writer, None, print)
"""
    outcome = run_guarded(script, tmp_path, [tmp_path / "mine"])
    assert outcome.is_clean, outcome


@pytest.mark.torch
def test_training_towers_opens_no_socket_and_writes_nowhere_else(photos, tmp_path, tiny_clip):
    """`test_the_command_trains_indexes_and_searches` checks the same for heads and scorers."""
    mine = tmp_path / "mine"
    mine.mkdir()
    before = copy_tree_bytes(photos)
    words = ["train", photos / "captions.jsonl", "--images", photos / "photos", "--out", mine / "model"]
    train = [*words, "--model", tiny_clip, "--unfreeze", "--epochs", 1]
    index = ["index", photos / "photos", "--model", mine / "model", "-i", mine / "c"]
    exports = tmp_path / "surroundings" / "XDG_CACHE_HOME" / "crosslook"
    exports.mkdir(parents=True)
    outcome = run_commands([train, index], tmp_path, [mine, exports])
    assert outcome.is_clean, outcome
    assert (mine / "model").is_dir() and any(exports.iterdir()) and copy_tree_bytes(photos) == before
