"""Ctrl-C, SIGTERM and SIGHUP at any moment."""

from __future__ import annotations

import signal
import subprocess

import pytest

from retrieval.maintenance import status
from tests.cli.running import FAKE_MODEL, ROOT, Started, script_command
from tests.support import write_photos

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
every_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)

# `act`, which every test defines, is called while the tenth file is decoded, in a thread.
AT_THE_TENTH = (
    FAKE_MODEL
    + """
from threading import Event
import retrieval.indexing.reading as reading
from cli.process import interruption
FakeEncoder.batch_size = 2
real = reading.decode
calls = 0
def decode(*arguments):
    global calls
    calls += 1
    if calls == 10:
        act()
    return real(*arguments)
reading.decode = decode
def send(number):
    os.kill(os.getpid(), number)
    while interruption.received() is None:
        pass
"""
)


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 60)
    return tmp_path / "photos"


@every_signal
def test_the_first_signal_commits_what_is_done(search_after, photos, tmp_path, number):
    script = f"{AT_THE_TENTH}\ndef act(): send({int(number)})"
    run = search_after(script, "index", photos, "-i", tmp_path / "c")
    assert run.returncode == 128 + number, run.stderr
    assert "stopping as soon as what is under way is committed" in run.stderr
    assert "interrupted: what is done is committed" in run.stderr and "Traceback" not in run.stderr
    assert 0 < status(tmp_path / "c").images < 60


@pytest.mark.parametrize("numbers", [(2, 2), (15, 15), (1, 2), (1, 15)])
def test_the_second_signal_ends_at_once_though_a_file_cannot_be_read_to_its_end(
    search, search_after, fake_model, photos, tmp_path, numbers
):
    first, second = numbers
    script = f"{AT_THE_TENTH}\ndef act():\n    send({first})\n    os.kill(os.getpid(), {second})\n    Event().wait()"
    run = search_after(script, "index", photos, "-i", tmp_path / "c")
    assert run.returncode == 128 + second, run.stderr
    assert "Traceback" not in run.stderr
    assert search("index", photos, "-i", tmp_path / "c").returncode == 0
    assert status(tmp_path / "c").images == 60


def test_a_hangup_that_the_shell_passes_on_as_well_is_one(search_after, photos, tmp_path):
    """Bash passes a SIGHUP on to its jobs, and the kernel sends one to every process of the terminal."""
    script = f"{AT_THE_TENTH}\ndef act():\n    send(1)\n    os.kill(os.getpid(), 1)"
    run = search_after(script, "index", photos, "-i", tmp_path / "c")
    assert run.returncode == 129 and "what is done is committed" in run.stderr
    assert 0 < status(tmp_path / "c").images < 60


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(photos, tmp_path, number):
    """SIGHUP is so under nohup, SIGINT in a script's background jobs."""
    script = f"{AT_THE_TENTH}\ndef act(): os.kill(os.getpid(), {int(number)})"
    run = subprocess.run(
        script_command(script, "index", photos, "-i", tmp_path / "c"),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )
    assert run.returncode == 0, run.stderr
    assert status(tmp_path / "c").images == 60


IMPORTED = [
    "cli.process.endings",
    "cli.process.streams",
    "typer",
    "cli.query",
    "numpy",
    "pyarrow",
    "retrieval.engine",
    "filelock",
]


@pytest.mark.parametrize("name", IMPORTED)
def test_an_interrupt_while_something_is_imported_is_heard_and_leaves_no_traceback(search_after, tmp_path, name):
    script = f"""
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
    run = search_after(script, "a cat", "-i", tmp_path / "none")
    assert (run.returncode, run.stderr, run.stdout) == (130, "interrupted\n", "")


SWALLOWED = {
    "a finaliser": """
class Model:
    def __del__(self):
        os.kill(os.getpid(), number)
        for _ in range(1000):
            pass
def wait(*arguments, **options):
    del [Model()][0]
    Event().wait()
""",
    "an extension module": """
def wait(*arguments, **options):
    try:
        os.kill(os.getpid(), number)
        Event().wait()
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error
""",
    "nobody": """
def wait(*arguments, **options):
    os.kill(os.getpid(), number)
    Event().wait()
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("swallower", SWALLOWED.values(), ids=SWALLOWED.keys())
def test_an_interrupt_is_heard_whoever_swallows_it(search_after, swallower, number):
    script = f"from threading import Event\nimport retrieval.maintenance\nnumber = {int(number)}\n{swallower}\n"
    run = search_after(script + "retrieval.maintenance.status = wait", "status")
    assert (run.returncode, run.stderr) == (128 + number, "interrupted\n")


@every_signal
def test_a_batch_that_waits_for_queries_ends(tmp_path, photos, search, fake_model, number):
    search("index", photos, "-i", tmp_path / "c")
    with Started(script_command(FAKE_MODEL, "--batch", "-", "-k", 1, "-i", tmp_path / "c"), text=True) as batch:
        batch.stdin.write("a cat\n")
        batch.stdin.flush()
        assert '"hits"' in batch.stdout.readline()
        batch.process.send_signal(number)
        assert batch.process.wait(timeout=30) == 128 + number
        assert batch.stderr.read() == "interrupted\n"


def test_an_interrupted_optimize_leaves_the_collection_to_the_next_one(search, search_after, collection):
    script = """
import indexes.writer
def interrupt(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
indexes.writer.write_own_segment = interrupt
"""
    run = search_after(script, "optimize", "-i", collection)
    assert (run.returncode, run.stderr) == (143, "interrupted\n")
    assert status(collection).images == 30
    run = search("optimize", "-i", collection)
    assert run.returncode == 0 and "3 segments became 1" in run.stderr


def test_an_interrupted_evaluation_leaves_no_temporary_files(search_after, photos, tmp_path):
    """The signal comes while an image is read."""
    (tmp_path / "temporary").mkdir()
    lines = [f'{{"image": "{path.name}", "captions": ["a cat"]}}\n' for path in sorted(photos.iterdir())]
    (tmp_path / "captions.jsonl").write_text("".join(lines))
    script = f"{AT_THE_TENTH}\ndef act(): send(15)"
    words = ["evaluate", tmp_path / "captions.jsonl", "--images", photos, "-i", tmp_path / "none"]
    run = search_after(script, *words, env={"TMPDIR": str(tmp_path / "temporary")})
    assert (run.returncode, run.stderr) == (143, "interrupted\n")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.torch
def test_a_training_run_ends_by_a_signal_as_by_an_interrupt(search_after, photos, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "000.png", "captions": ["a cat"]}\n')
    script = """
import retrieval.training.run
def train_model(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
retrieval.training.run.train_model = train_model
"""
    run = search_after(script, "train", tmp_path / "captions.jsonl", "--images", photos, "--out", tmp_path / "model")
    assert run.returncode == 143 and run.stderr.endswith("interrupted\n") and "Traceback" not in run.stderr


@every_signal
def test_a_signal_after_the_last_line_leaves_no_traceback(search_after, collection, number):
    script = f"import atexit\natexit.register(os.kill, os.getpid(), {int(number)})"
    run = search_after(script, "status", "-i", collection)
    assert run.returncode == 128 + number and run.stderr == ""


def test_a_process_that_a_run_forks_ends_by_a_signal_as_any_other(search_after):
    """A worker that is terminated ends at once; the run itself would commit first."""
    script = """
import retrieval.maintenance
from cli.process import interruption
def status(path):
    with interruption.stopping_after_commit():
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, b"ready")
            while True:
                pass
        os.read(ours, 5)  # before that, Python forgets a signal
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        sys.exit(0 if os.WTERMSIG(status) == signal.SIGTERM else 3)
retrieval.maintenance.status = status
"""
    run = search_after(script, "status")
    assert (run.returncode, run.stderr) == (0, "")
