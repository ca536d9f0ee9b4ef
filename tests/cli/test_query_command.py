"""`search "a cat"`: what it prints, on which stream, and its exit status."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from cli.commands import app
from cli.show.output import printable
from indexes.collection import Collection
from indexes.manifest import AnnEntry
from indexes.writer import CollectionWriter
from tests.support import write_photo


def test_the_cat_is_found(search, indexed):
    run = search("a cat", index=indexed)
    assert run.returncode == 0
    assert run.stdout.splitlines()[0].endswith("chelsea.png")


def test_words_need_no_quotes(search, indexed):
    assert search("a", "cup", "of", "coffee", index=indexed).stdout == search("a cup of coffee", index=indexed).stdout


def test_options_may_come_first(search, indexed):
    assert len(search("-k", 2, "a cat", index=indexed).stdout.splitlines()) == 2


def test_a_query_that_is_a_commands_name(search, indexed):
    assert search("query", "index", index=indexed).returncode == 0


def test_a_query_that_begins_with_a_dash(search, indexed):
    assert search("query", "--", "-5 degrees", index=indexed).returncode == 0


def test_a_pipe_gets_rank_score_and_path_separated_by_tabs(search, indexed):
    run = search("a cat", "-k", 3, index=indexed)
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [float(line[1]) for line in lines] == sorted((float(line[1]) for line in lines), reverse=True)
    assert all(Path(line[2]).is_file() for line in lines)
    assert run.stderr == ""


def test_json_is_one_object_a_line_with_the_stated_fields(search, indexed):
    lines = search("a cat", "--json", "-k", 3, index=indexed).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    fields = ["rank", "path", "score", "similarity", "match", "width", "height", "taken_at", "missing"]
    assert [list(record) for record in records] == [fields] * 3
    assert records[0]["path"].endswith("chelsea.png")
    assert (records[0]["width"], records[0]["height"]) == (451, 300)
    assert all(0 < record["match"] < 1 for record in records)


def test_json_has_the_time_that_a_camera_wrote_into_the_file(search, fake_model, tmp_path):
    (tmp_path / "photos").mkdir()
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2021:07:04 12:30:05"
    image.save(tmp_path / "photos" / "a.jpg", exif=exif)
    image.save(tmp_path / "photos" / "b.png")
    search("index", tmp_path / "photos", index=tmp_path / "c")
    records = map(json.loads, search("a cat", "--json", index=tmp_path / "c").stdout.splitlines())
    times = {Path(record["path"]).name: record["taken_at"] for record in records}
    assert times == {"a.jpg": "2021-07-04T12:30:05", "b.png": None}


def test_paths_only(search, indexed):
    run = search("a cat", "--paths", "-k", 2, index=indexed)
    assert all(Path(line).is_file() for line in run.stdout.splitlines())


def test_paths_ended_by_nul(search, indexed):
    run = search("a cat", "-0", "-k", 2, index=indexed)
    assert run.stdout.count("\0") == 2 and "\n" not in run.stdout


def test_without_the_scorer_images_come_by_similarity(search, indexed):
    lines = search("a cat", "--json", "--no-rerank", index=indexed).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["match"] for record in records] == [None] * 10
    similarities = [record["similarity"] for record in records]
    assert similarities == sorted(similarities, reverse=True) == [record["score"] for record in records]


def test_results_below_min_match_are_left_out_and_a_note_says_if_none_remain(search, indexed):
    everything = [json.loads(line) for line in search("a cat", "--json", index=indexed).stdout.splitlines()]
    threshold = everything[1]["match"]
    kept = search("a cat", "--json", "--min-match", threshold - 1e-4, index=indexed).stdout.splitlines()
    assert len(kept) == 2
    nothing = search("a cat", "--min-match", 0.999, index=indexed)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "nothing matches well: the best match is" in nothing.stderr


def test_options_of_the_second_stage_that_make_no_sense_are_refused(search, indexed):
    for words in (
        ("--no-rerank", "--min-match", 0.5),
        ("--no-rerank", "--scorer", "blip:x"),
        ("--scorer", "blop"),
        ("--candidates", 0),
        ("--min-match", 1.5),
    ):
        run = search("a cat", *words, index=indexed)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr


def test_only_in_a_folder(search, indexed, samples, tmp_path):
    assert search("a cat", "--in", samples, index=indexed).returncode == 0
    run = search("a cat", "--in", tmp_path, index=indexed)
    assert (run.returncode, run.stdout) == (1, "")
    assert "nothing in" in run.stderr


def test_a_terminal_gets_a_table_with_a_line_about_the_search(indexed):
    text = on_a_terminal(indexed, {})
    assert "\033[1m" in text and "chelsea.png" in text and "451x300" in text
    assert "3 of 18 images in" in text and "re-ranked" in text
    assert "%  " in text, "a match for each"


def test_no_color_is_respected_on_a_terminal(indexed):
    assert "\033[" not in on_a_terminal(indexed, {"NO_COLOR": "1"})


def on_a_terminal(indexed, environment):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from cli.main import main; main()", "a cat", "-k", "3"]
    environment = os.environ | {"CROSSLOOK_INDEX": str(indexed), "TERM": "xterm"} | environment
    subprocess.run(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    return os.read(ours, 100_000).decode()


def test_a_reader_that_stops_early_is_no_error(indexed):
    """`true` ends long before the first line is written."""
    command = f"{sys.executable} -c 'from cli.main import main; main()' 'a cat' | true; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"CROSSLOOK_INDEX": str(indexed)}
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert (run.stdout, run.stderr) == ("0\n", "")


def test_short_help_is_that_of_the_whole(search):
    assert search("-h").stdout == search("--help").stdout


def test_a_query_that_is_not_unicode_is_answered(search, indexed):
    assert search(b"\xff cat", index=indexed).returncode == 0


def test_names_are_printed_whatever_the_terminals_encoding(search, search_process, tmp_path):
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "photos" / "日本.png")
    search("index", tmp_path / "photos", index=tmp_path / "c")
    run = search_process("a cat", "--paths", index=tmp_path / "c", env={"PYTHONIOENCODING": "latin-1"})
    assert run.returncode == 0 and "日本.png" in run.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("",), "the query is empty"),
        (("   ",), "the query is empty"),
        (("a cat", "-k", "0"), "1 or more"),
        (("a cat", "-k", "-3"), "1 or more"),
        (("a cat", "--model", "ViT-B-32:openai"), "the model lite, not ViT-B-32:openai"),
    ],
)
def test_bad_input_is_one_line_and_status_2(search, indexed, words, message):
    run = search(*words, index=indexed)
    assert (run.returncode, run.stdout) == (2, "")
    assert message in run.stderr and len(run.stderr.splitlines()) == 1 and run.stderr.startswith("search: ")


def test_no_collection_yet_is_one_line_and_status_2(search, tmp_path):
    run = search("a cat", index=tmp_path / "none")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "search index FOLDER" in run.stderr


def test_a_very_long_query_is_answered_and_a_note_says_that_it_is_cut(search, indexed):
    run = search("a cat on a sofa " * 625, index=indexed)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 10
    assert "longer than 256 tokens" in run.stderr


def test_help_names_every_command(search):
    text = search("--help").stdout
    names = [command.name for command in app.registered_commands]
    assert len(names) > 10
    for name in (*names, "--version"):
        assert f"\n  {name} " in text


def test_the_version_is_printed(search):
    assert search("--version").stdout.startswith("crosslook ")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("häuschen 🏠.jpg", "häuschen 🏠.jpg"),
        ("new\nline\t.jpg", "new\\nline\\t.jpg"),
        ("clear\x1b[2J.jpg", "clear\\x1b[2J.jpg"),
        ("back\\slash.jpg", "back\\\\slash.jpg"),
        ("Screenshot 1.00.00\u202fPM.jpg", "Screenshot 1.00.00\u202fPM.jpg"),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 family.jpg",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 family.jpg",
        ),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("back\\slash\n.jpg", "back\\\\slash\\n.jpg"),
        ("\udcff.jpg", "\\udcff.jpg"),
    ],
)
def test_names_are_printed_so_that_a_line_stays_a_line(name, shown):
    assert printable(name) == shown


def test_an_unusable_ann_index_gets_a_note_and_every_image_is_compared(search, indexed, tmp_path):
    """A large collection without FAISS, or with a damaged index, is searched slowly: the user should know."""
    path = tmp_path / "collection"
    shutil.copytree(indexed, path)

    def garbage(file):
        file.write_bytes(b"no index")
        return AnnEntry(bytes=8, last_id=10**6, rows=10**6)

    with CollectionWriter(path, Collection.open(path).binding) as writer:
        writer.put_ann(garbage)
    (tmp_path / "queries").write_text("a cat\n")
    for words in (["a cat"], ["--batch", tmp_path / "queries"]):
        run = search(*words, index=path)
        assert run.returncode == 0 and run.stdout == search(*words, index=indexed).stdout
        assert len(run.stderr.splitlines()) == 1
        assert "all images are compared" in run.stderr and "search optimize" in run.stderr
