"""Every command in another process, and what such a process imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from cli.commands import app
from tests.cli.running import ROOT
from tests.support import write_photos

# The words of every command and what it must print. The places in braces are made by the test.
COMMANDS: dict[str, tuple[list[object], str]] = {
    "query": (["a cat", "-k", 1], "chelsea.png"),
    "index": (["index", "{photos}"], "4 new"),
    "status": (["status"], "images      18"),
    "remove": (["remove", "{samples}/coffee.png"], "1 image removed"),
    "verify": (["verify"], "nothing is damaged"),
    "optimize": (["optimize"], "nothing to do"),
    "evaluate": (["evaluate", "{captions}", "--images", "{samples}"], "text -> image"),
    "compare": (["compare", "{record}", "{record}"], "within noise"),
    "explain": (["explain", "a cat", "{samples}/chelsea.png"], "similarity"),
    "models": (["models"], "lite"),
    "demo": (["demo", "--out", "{folder}/demo", "-k", 1], "a cup of coffee"),
    "train": (["train", "--help"], "--out"),  # that it trains: tests/cli/test_train_command.py
}


def test_every_command_is_run():
    assert set(COMMANDS) == {command.name for command in app.registered_commands}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_in_its_process(search, search_process, indexed, samples, tmp_path, name):
    places = {"folder": tmp_path, "samples": samples, "photos": tmp_path / "photos"}
    write_photos(places["photos"], 4)
    places["captions"] = tmp_path / "captions.csv"
    places["captions"].write_text("image,caption\nchelsea.png,a cat\ncoffee.png,a cup of coffee\n")
    collection = shutil.copytree(indexed, tmp_path / "collection")
    if name == "compare":
        places["record"] = tmp_path / "record.json"
        search("evaluate", places["captions"], "--images", samples, "--json", places["record"], index=collection)
    words, printed = COMMANDS[name]
    run = search_process(*(str(word).format(**places) for word in words), index=collection)
    assert run.returncode == 0, run.stderr
    assert printed in run.stdout + run.stderr and "Traceback" not in run.stderr


def test_nothing_but_an_ann_index_needs_faiss(tmp_path):
    script = "import sys; sys.modules['faiss'] = None; from cli.main import main; main()"
    write_photos(tmp_path / "photos", 4)

    def run(*arguments):
        command = [sys.executable, "-c", script, *map(str, arguments), "-i", str(tmp_path / "c")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert run("index", tmp_path / "photos").returncode == 0
    assert run("query", "a red square").returncode == 0


def test_nothing_is_imported_before_a_command_needs_it():
    script = """
import json, sys, cli.main, cli.process.endings, cli.commands
heavy = ("numpy", "pyarrow", "onnxruntime", "PIL", "faiss", "rich.console")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(run.stdout) == []
