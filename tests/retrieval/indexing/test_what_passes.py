"""What passes does not become permanent: trouble of the moment costs no image, and known content is never embedded
again."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.leftovers import IN_FLIGHT
from indexes.verification import verify
from retrieval.indexing import reading, run
from retrieval.indexing.in_flight import SLOT, InFlight
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.survey import Settings
from retrieval.maintenance import optimize, remove_folder
from retrieval.progress import Observer
from tests.drives import mounted
from tests.support import FakeEncoder, write_photo, write_photos

TROUBLES = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EACCES)


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "collection"


def names(path):
    table = Collection.open(path).table(["path"])
    return sorted(Path(os.fsdecode(name)).name for name in table["path"].to_pylist())


def embeddings(path):
    collection = Collection.open(path)
    table = collection.table(["path"])
    vectors = collection.embeddings(table["position"].to_numpy()).tolist()
    return dict(zip(table["path"].to_pylist(), vectors, strict=True))


def collected(lines):
    return Observer(failure=lambda file, reason: lines.append((Path(os.fsdecode(file)).name, reason)))


class Trouble:
    """Reading some files fails, at the call to open or at the call to read."""

    def __init__(self, monkeypatch, files, code, when="open"):
        self.files = {os.fsencode(file) for file in files}
        real = open

        def troubled(file, *arguments, **options):
            if file in self.files and when == "open":
                raise OSError(code, os.strerror(code), file)
            opened = real(file, *arguments, **options)
            return Unreadable(opened, code) if file in self.files else opened

        monkeypatch.setattr(reading, "open", troubled, raising=False)


class Unreadable:
    def __init__(self, file, code):
        self._file, self._code = file, code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def fileno(self):
        return self._file.fileno()

    def read(self):
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize("when", ["open", "read"])
@pytest.mark.parametrize("code", TROUBLES, ids=errno.errorcode.get)
def test_a_changed_image_that_cannot_be_read_now_keeps_its_row_and_is_tried_again(
    photos, path, encoder, monkeypatch, code, when
):
    index_folders([photos], path, encoder)
    before = embeddings(path)
    write_photo(photos / "003.png", seed=99)
    os.utime(photos / "003.png", ns=(1, 1))
    lines: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:
        Trouble(patch, [photos / "003.png"], code, when)
        progress = index_folders([photos], path, encoder, observer=collected(lines))
    assert (progress.postponed, progress.failed, progress.changed) == (1, 0, 0)
    assert lines == [("003.png", f"cannot be read now: {os.strerror(code)}")]
    assert embeddings(path) == before and len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).changed == 1
    assert embeddings(path) != before


@pytest.mark.parametrize("code", TROUBLES, ids=errno.errorcode.get)
def test_a_new_image_that_cannot_be_read_now_is_no_failure_and_is_tried_again(photos, path, encoder, monkeypatch, code):
    with monkeypatch.context() as patch:
        Trouble(patch, [photos / "003.png", photos / "004.png"], code)
        assert index_folders([photos], path, encoder).postponed == 2
    assert len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).new == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")], ids=["python", "os"]
)
def test_a_lack_of_memory_while_decoding_is_no_failure(photos, path, encoder, monkeypatch, error):
    real = reading.decode

    def decode(content, *arguments):
        if content == (photos / "002.png").read_bytes():
            raise error
        return real(content, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "decode", decode)
        assert index_folders([photos], path, encoder).postponed == 1
    assert index_folders([photos], path, encoder).new == 1


def test_a_file_that_is_being_written_is_tried_again(photos, path, encoder, monkeypatch):
    """A camera's memory card is being copied: the file grows, or changes under the reader."""
    real = os.fstat

    class Growing:
        def __init__(self, status):
            self._status = status

        def __getattr__(self, name):
            return getattr(self._status, name)

        @property
        def st_size(self):
            return self._status.st_size + 5

    with monkeypatch.context() as patch:
        patch.setattr(reading.os, "fstat", lambda descriptor: Growing(real(descriptor)))
        progress = index_folders([photos], path, encoder)
    assert progress.postponed == 6 and len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).new == 6


def test_a_changed_file_that_vanishes_is_mentioned_and_removed_by_the_next_run(photos, path, encoder, monkeypatch):
    index_folders([photos], path, encoder)
    write_photo(photos / "003.png", seed=99)
    os.utime(photos / "003.png", ns=(1, 1))
    real = run.Run.encode

    def after_it_vanished(self, encodings):
        (photos / "003.png").unlink()
        real(self, encodings)

    lines: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "encode", after_it_vanished)
        index_folders([photos], path, encoder, observer=collected(lines))
    assert lines == [("003.png", "is gone since the folder was listed")]
    assert "003.png" in names(path)
    assert index_folders([photos], path, encoder).removed == 1


@pytest.mark.parametrize("when", ["2400-01-01", "1500-01-01"])
def test_a_file_from_beyond_all_dates_costs_no_other_and_is_not_read_again(photos, path, encoder, when):
    subprocess.run(["touch", "-d", when, photos / "003.png"], check=True)
    assert index_folders([photos], path, encoder).new == 6
    assert index_folders([photos], path, encoder).unchanged == 6
    assert encoder.encoded == 6


class TestKnownContent:
    """The same content is never embedded twice."""

    def test_a_copy_is_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        for number in range(3):
            shutil.copy(photos / f"00{number}.png", photos / f"copy{number}.png")
        progress = index_folders([photos], path, encoder)
        assert (progress.copied, progress.new) == (3, 0) and encoder.encoded == 6
        vectors = embeddings(path)
        for number in range(3):
            original = os.fsencode(photos / f"00{number}.png")
            assert vectors[os.fsencode(photos / f"copy{number}.png")] == vectors[original]
        assert index_folders([photos], path, encoder).unchanged == 9

    def test_copies_within_one_first_run_are_embedded_once(self, photos, path, encoder):
        for number in range(20):
            shutil.copy(photos / "001.png", photos / f"copy{number}.png")
        progress = index_folders([photos], path, encoder, Settings(commit_rows=3))
        assert (progress.new, progress.copied, progress.done) == (6, 20, progress.total) and encoder.encoded == 6
        assert len(set(map(tuple, embeddings(path).values()))) == 6 and len(names(path)) == 26
        assert index_folders([photos], path, encoder).unchanged == 26

    def test_a_copy_describes_its_own_file(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        shutil.copy(photos / "001.png", photos / "copy.png")
        os.utime(photos / "copy.png", ns=(5, 5))
        index_folders([photos], path, encoder)
        collection = Collection.open(path)
        rows = {Path(os.fsdecode(row.path)).name: row for row in collection.rows(range(7))}
        assert rows["copy.png"].mtime_ns == 5 and rows["copy.png"].id != rows["001.png"].id
        assert rows["copy.png"].content_hash == rows["001.png"].content_hash
        assert (rows["copy.png"].width, rows["copy.png"].height) == (rows["001.png"].width, rows["001.png"].height)

    def test_what_was_removed_comes_back_without_being_embedded(self, photos, path, encoder, tmp_path):
        index_folders([photos], path, encoder)
        before = embeddings(path)
        shutil.move(photos / "004.png", tmp_path / "away.png")
        assert index_folders([photos], path, encoder).removed == 1
        shutil.move(tmp_path / "away.png", photos / "004.png")
        assert index_folders([photos], path, encoder).copied == 1
        assert embeddings(path) == before and encoder.encoded == 6

    def test_a_removed_folder_comes_back_without_being_embedded_until_optimize(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        remove_folder(path, photos)
        assert names(path) == []
        assert index_folders([photos], path, encoder).copied == 6
        assert encoder.encoded == 6
        remove_folder(path, photos)
        optimize(path)
        assert index_folders([photos], path, encoder).new == 6
        assert encoder.encoded == 12

    def test_an_image_changed_to_the_content_of_another_is_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        (photos / "001.png").write_bytes((photos / "002.png").read_bytes())
        progress = index_folders([photos], path, encoder)
        assert progress.copied == 1 and encoder.encoded == 6
        vectors = embeddings(path)
        assert vectors[os.fsencode(photos / "001.png")] == vectors[os.fsencode(photos / "002.png")]

    def test_two_images_that_changed_places_are_not_embedded(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        before = embeddings(path)
        one, other = photos / "001.png", photos / "002.png"
        one.rename(photos / "x")
        other.rename(one)
        (photos / "x").rename(other)
        index_folders([photos], path, encoder)
        after = embeddings(path)
        assert after[os.fsencode(one)] == before[os.fsencode(other)] and encoder.encoded == 6

    def test_a_renamed_root_is_not_embedded_and_leaves_nothing_behind(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        renamed = photos.rename(photos.with_name("renamed"))
        progress = index_folders([renamed], path, encoder)
        assert progress.moved == 6 and encoder.encoded == 6
        assert Collection.open(path).manifest.folders == (str(renamed),)
        assert all(os.fsencode(renamed) in name for name in embeddings(path))

    def test_a_touched_file_is_touched_once_and_not_moved(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        os.utime(photos / "001.png", ns=(7, 7))
        (photos / "002.png").chmod(0o600)
        progress = index_folders([photos], path, encoder)
        assert (progress.touched, progress.moved, progress.changed) == (2, 0, 0)
        assert index_folders([photos], path, encoder).unchanged == 6

    def test_a_change_in_place_that_keeps_size_and_time_is_seen(self, photos, path, encoder):
        index_folders([photos], path, encoder)
        before, file = embeddings(path), photos / "001.png"
        status, content = file.stat(), bytearray(file.read_bytes())
        replacement = (photos / "002.png").read_bytes()
        content[: len(replacement)] = replacement[: len(content)]
        file.write_bytes(content[: status.st_size].ljust(status.st_size, b"\0"))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert file.stat().st_size == status.st_size and file.stat().st_mtime_ns == status.st_mtime_ns
        progress = index_folders([photos], path, encoder)
        assert progress.changed + progress.copied + progress.failed == 1
        assert embeddings(path) != before


class TestDrivesThatAreAway:
    def test_a_drive_below_a_root_that_is_unmounted_keeps_its_images_and_nothing_is_embedded_again(
        self, photos, path, encoder, tmp_path
    ):
        drive = photos / "deep" / "drive"
        drive.mkdir(parents=True)
        lines: list[str] = []
        with mounted(drive):
            write_photos(drive, 5, first=50)
            index_folders([photos], path, encoder)
            shutil.copytree(drive, tmp_path / "stick")
        for file in drive.iterdir():  # where mounts are only simulated
            file.unlink()
        before = embeddings(path)
        progress = index_folders([photos], path, encoder, observer=Observer(note=lines.append))
        assert (progress.removed, progress.kept) == (0, 5) and embeddings(path) == before
        assert len(lines) == 1 and str(drive) in lines[0] and "--forget" in lines[0]
        with mounted(drive):
            for file in (tmp_path / "stick").iterdir():
                shutil.copy2(file, drive)
            progress = index_folders([photos], path, encoder)
            assert progress.new == progress.copied == 0
        assert encoder.encoded == 11

    def test_the_person_may_say_that_it_is_gone_for_good(self, photos, path, encoder):
        (photos / "sub").mkdir()
        write_photos(photos / "sub", 3, first=50)
        index_folders([photos], path, encoder)
        for file in (photos / "sub").iterdir():
            file.unlink()
        assert index_folders([photos], path, encoder).kept == 3
        assert index_folders([photos], path, encoder, Settings(forget=True)).removed == 3
        assert index_folders([photos], path, encoder).kept == 0

    def test_excludes_are_remembered(self, photos, path, encoder):
        index_folders([photos], path, encoder, Settings(exclude=("00[12].png",)))
        assert index_folders([photos], path, encoder).new == 0
        assert Collection.open(path).manifest.excludes == ("00[12].png",)
        assert index_folders([photos], path, encoder, Settings(no_exclude=("00[12].png",))).new == 2
        assert index_folders([photos], path, encoder).unchanged == 6

    def test_pictures_passed_over_are_remembered(self, photos, path, encoder):
        (photos / "a.xcf").write_bytes(b"x")
        (photos / "b.XCF").write_bytes(b"x")
        progress = index_folders([photos], path, encoder)
        assert progress.passed_over == {".xcf": 2}
        assert Collection.open(path).manifest.passed_over == {str(photos): {".xcf": 2}}


KILLER = """
import os, signal
from PIL.PngImagePlugin import PngImageFile
real = PngImageFile._open
def _open(self):
    content = self.fp.read()
    self.fp.seek(0)
    if b"kills" in content:
        os.kill(os.getpid(), int(content.rpartition(b"kills")[2]))
        signal.pause()
    real(self)
PngImageFile._open = _open
"""
INDEX = """
import sys
from pathlib import Path
from retrieval.indexing.pipeline import index_folders
from tests.support import FakeEncoder
progress = index_folders([sys.argv[1]], Path(sys.argv[2]), FakeEncoder())
print(progress.new, progress.failed, progress.unchanged, progress.still_failing)
"""


@pytest.fixture
def index_with_killers(photos, path, tmp_path):
    """Runs `search index` in a process whose PNG decoder is ended by a signal where a file names it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(root)])}

    def index(folder=photos):
        command = [sys.executable, "-c", INDEX, folder, path]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return index


def add_killer(path, number, seed=3):
    write_photo(path, seed=seed)
    with path.open("ab") as file:
        file.write(b"kills %d" % number)


def failures(path):
    return {Path(os.fsdecode(row["path"])).name: row["error"] for row in Collection.open(path).failures().to_pylist()}


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE], ids=lambda number: number.name)
def test_a_file_that_kills_the_process_stops_one_run_and_is_named_by_the_next(photos, path, index_with_killers, number):
    add_killer(photos / "bad.png", number)
    assert index_with_killers().returncode == -number
    assert (path / IN_FLIGHT).exists()
    second = index_with_killers()
    assert second.stdout.split() == ["6", "1", "0", "0"], second.stderr
    assert failures(path) == {"bad.png": f"kills the process that decodes it ({number.name})"}
    assert index_with_killers().stdout.split() == ["0", "0", "6", "1"]
    assert not (path / IN_FLIGHT).exists()


def test_several_files_that_kill_the_process_are_named_one_after_the_other(photos, path, index_with_killers):
    """They are apart from each other, and more than a commit's worth of images is never reached before the last."""
    write_photos(photos, 60)
    for name in ("010", "025", "045"):
        add_killer(photos / f"{name}.png", signal.SIGSEGV, seed=int(name))
    runs = [index_with_killers().returncode for _ in range(5)]
    assert runs[-1] == 0 and -signal.SIGSEGV in runs
    assert set(failures(path)) == {"010.png", "025.png", "045.png"} and len(names(path)) == 57


def test_a_run_over_another_folder_forgets_no_suspect(photos, path, index_with_killers, tmp_path):
    add_killer(photos / "bad.png", signal.SIGSEGV)
    write_photos(tmp_path / "others", 3, first=90)
    assert index_with_killers().returncode == -signal.SIGSEGV
    assert index_with_killers(tmp_path / "others").returncode == 0
    assert index_with_killers().returncode == 0
    assert set(failures(path)) == {"bad.png"} and len(names(path)) == 9


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_process_ended_by_others_or_for_memory_is_no_verdict_on_the_file(
    photos, path, index_with_killers, encoder, number
):
    add_killer(photos / "good.png", number)
    (path).mkdir()
    name = os.fsencode(photos / "good.png")
    (path / IN_FLIGHT).write_bytes((len(name).to_bytes(4, "little") + name).ljust(SLOT, b"\0"))
    for _ in range(2):
        assert index_with_killers().returncode == 0
        assert failures(path) == {} and len(names(path)) == 6
    assert index_folders([photos], path, encoder).new == 1  # once nothing kills it
    assert not (path / IN_FLIGHT).exists()


def test_files_in_flight_of_a_run_that_was_killed_from_outside_are_indexed(photos, path, encoder):
    index_folders([photos], path, encoder)
    write_photos(photos, 2, first=30)
    suspects = [os.fsencode(photos / name) for name in ("030.png", "031.png")]
    slots = [len(name).to_bytes(4, "little") + name for name in suspects]
    (path / IN_FLIGHT).write_bytes(b"".join(slot.ljust(SLOT, b"\0") for slot in slots))
    assert InFlight(path, 1).suspects == frozenset(suspects)
    (path / IN_FLIGHT).write_bytes(b"".join(slot.ljust(SLOT, b"\0") for slot in slots))
    assert index_folders([photos], path, encoder).new == 2


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x05\0\0\0ab"], ids=["empty", "large", "short"])
def test_a_damaged_note_of_files_in_flight_is_in_nobodys_way(photos, path, encoder, content):
    index_folders([photos], path, encoder)
    (path / IN_FLIGHT).write_bytes(content)
    write_photos(photos, 1, first=40)
    assert index_folders([photos], path, encoder).new == 1


def test_damage_found_while_merging_in_the_middle_of_a_run_ends_it_after_all_is_done(
    photos, path, encoder, monkeypatch
):
    monkeypatch.setattr(run, "MANY_SEGMENTS", 1)
    index_folders([photos], path, encoder, Settings(commit_rows=2))
    segment = min((path / "segments").iterdir())
    damaged = bytearray((segment / "tokens.npy").read_bytes())
    damaged[-3] ^= 1
    (segment / "tokens.npy").write_bytes(damaged)
    write_photos(photos, 6, first=60)
    with pytest.raises(DamagedSegmentError, match=r"tokens\.npy.*--repair"):
        index_folders([photos], path, encoder, Settings(commit_rows=2))
    assert len(names(path)) == 12
    again = FakeEncoder()
    index_folders([photos], path, again, Settings(repair=True))
    assert len(names(path)) == 12 and verify(path).faults == () and 0 < again.encoded < 12


def test_a_lost_manifest_is_rebuilt_and_nothing_is_embedded_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = embeddings(path)
    for manifest in path.glob("manifest-*.json"):
        manifest.write_bytes(b"")
    with pytest.raises(CrosslookError, match="--repair"):
        index_folders([photos], path, encoder)
    lines: list[str] = []
    index_folders([photos], path, encoder, Settings(repair=True), Observer(note=lines.append))
    assert embeddings(path) == before and encoder.encoded == 6
    assert any("rebuilt from 1 segment with 6 images" in line for line in lines)
    assert Collection.open(path).manifest.folders == (str(photos),)


def test_a_collection_of_the_first_format_is_brought_up_to_date_without_embedding(tmp_path):
    """The golden collection's photos are elsewhere than they were: their content is known all the same, also of the
    two that had been removed from it."""
    golden = Path(__file__).parents[2] / "goldens" / "format-1"
    shutil.copytree(golden / "collection", tmp_path / "c")
    shutil.copytree(golden / "photos", tmp_path / "photos")
    encoder = FakeEncoder()
    progress = index_folders([tmp_path / "photos"], tmp_path / "c", encoder)
    assert encoder.encoded == progress.new == 0 and progress.moved + progress.copied == 80
    assert len(Collection.open(tmp_path / "c")) == 80
    assert verify(tmp_path / "c").faults == ()


class TestDamageIsNotCopied:
    """A row whose vectors are damaged is encoded again, instead of getting a valid checksum in a new file."""

    @pytest.fixture
    def damaged(self, photos, path, encoder):
        """The vectors of one row of a collection are damaged; which image that is, and what they were."""
        index_folders([photos], path, encoder)
        before = embeddings(path)
        file = next((path / "segments").glob("*/embeddings.npy"))
        content = bytearray(file.read_bytes())
        content[-5] ^= 64
        file.write_bytes(content)
        (name,) = [name for name, vector in embeddings(path).items() if vector != before[name]]
        return Path(os.fsdecode(name)), before[name]

    @pytest.mark.parametrize("change", ["move", "copy", "touch"])
    def test_the_image_is_encoded_anew_and_the_damage_told(self, photos, path, encoder, damaged, change):
        image, vector = damaged
        other = image
        if change == "touch":
            os.utime(image, ns=(9, 9))
        else:
            other = image.with_name("other.png")
            shutil.copy(image, other)
        if change == "move":
            image.unlink()
        with pytest.raises(DamagedSegmentError, match="row's checksum is wrong"):
            index_folders([photos], path, encoder)
        assert embeddings(path)[os.fsencode(other)] == vector
        assert encoder.encoded == 7

    def test_what_is_sound_is_copied_all_the_same(self, photos, path, encoder, damaged):
        image, _ = damaged
        (sound,) = [
            name for name in photos.iterdir() if name.name == ("000.png" if image.name != "000.png" else "001.png")
        ]
        shutil.copy(sound, photos / "copy.png")
        assert index_folders([photos], path, encoder).copied == 1


def test_an_edit_that_is_undone_is_not_embedded_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before, content = embeddings(path), (photos / "001.png").read_bytes()
    write_photo(photos / "001.png", seed=77)
    assert index_folders([photos], path, encoder).changed == 1
    (photos / "001.png").write_bytes(content)
    assert index_folders([photos], path, encoder).copied == 1
    assert embeddings(path) == before and encoder.encoded == 7


def test_what_is_removed_and_revived_again_and_again_does_not_pile_up(photos, path, encoder):
    index_folders([photos], path, encoder)
    for _ in range(12):
        remove_folder(path, photos)
        index_folders([photos], path, encoder)
    stored = sum(entry.rows for entry in Collection.open(path).manifest.segments)
    assert encoder.encoded == 6 and stored <= 3 * 6


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(photos, path, encoder, monkeypatch):
    real = run.Run.encode

    def after_it_changed(self, encodings):
        (photos / "003.png").unlink()
        os.mkfifo(photos / "003.png")
        real(self, encodings)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "encode", after_it_changed)
        assert index_folders([photos], path, encoder).postponed == 1


def test_a_link_to_itself_is_a_broken_link(photos, path, encoder):
    (photos / "loop.png").symlink_to(photos / "loop.png")
    assert index_folders([photos], path, encoder).failed == 1
    assert failures(path) == {"loop.png": "is a broken link"}
    assert index_folders([photos], path, encoder).still_failing == 1
