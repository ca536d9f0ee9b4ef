"""`search evaluate`, `search compare` and `search --batch`."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.running import Started, script_command
from tests.retrieval.made_up_scorers import ManyPairs

CAPTIONS = {
    "chelsea.png": ["a cat", "a close-up of a tabby cat"],
    "coffee.png": ["a cup of coffee", "an espresso on a table"],
    "china.jpg": ["a temple", "a tower with a tiled roof"],
    "flower.jpg": ["a flower", "a yellow dahlia"],
    "rocket.jpg": ["a cup of coffee on a launch pad"],
}


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.jsonl"
    lines = [{"image": name, "captions": texts, "split": "dev"} for name, texts in CAPTIONS.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_figures_are_printed_with_intervals_and_definitions(search, captions, samples, tmp_path):
    run = search("evaluate", captions, "--images", samples, index=tmp_path / "none")
    assert run.returncode == 0, run.stderr
    assert "captions.jsonl, split dev" in run.stdout and "5 images, 9 captions" in run.stdout
    assert "text -> image" in run.stdout and "image -> text" in run.stdout
    assert "R@1" in run.stdout and "recall@1" in run.stdout and "[" in run.stdout
    assert "wrong items come first" in " ".join(run.stdout.split())
    assert "computed for this run" in run.stderr


def test_a_gpu_that_gave_way_to_the_processor_is_named(search, captions, samples, indexed, monkeypatch):
    scorer = ManyPairs()
    monkeypatch.setattr("retrieval.fusion.load_scorer", lambda *arguments, **options: scorer)
    assert "slower" not in search("evaluate", captions, "--images", samples, index=indexed).stderr
    scorer.fault = "the GPU has too little free memory to score a pair"
    run = search("evaluate", captions, "--images", samples, index=indexed)
    assert run.returncode == 0 and f"slower than necessary, since the processor scores: {scorer.fault}" in run.stderr


def test_a_collection_that_holds_the_images_is_used(search, captions, samples, indexed):
    run = search("evaluate", captions, "--images", samples, index=indexed)
    assert run.returncode == 0 and "taken from the collection" in run.stderr


def test_json_and_page_are_written(search, captions, samples, indexed, tmp_path):
    files = tmp_path / "a.json", tmp_path / "a.html"
    run = search("evaluate", captions, "--images", samples, "--json", files[0], "--html", files[1], index=indexed)
    assert run.returncode == 0, run.stderr
    record = json.loads(files[0].read_text())
    assert record["images"] == 5 and record["model"] == "lite"
    page = files[1].read_text()
    assert page.count("<svg") == 2 and "recall@5" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    wrong = sum(ranks[0] > 1 for ranks in record["queries"]["text_to_image"]["base"])
    assert wrong > 0 and page.count("<small>came first") == wrong
    same = search("compare", files[0], files[0])
    assert same.returncode == 0 and same.stdout.count("within noise") == len(same.stdout.splitlines()) - 2


@pytest.mark.parametrize("options", [("--scorer", "blip:x", "--no-rerank"), ("--scorer", "blop")])
def test_a_scorer_that_makes_no_sense_is_refused(search, captions, samples, indexed, options):
    run = search("evaluate", captions, "--images", samples, *options, index=indexed)
    assert run.returncode == 2 and not run.stdout and "Traceback" not in run.stderr


@pytest.mark.torch
def test_blip_is_evaluated_in_both_directions(search, captions, samples, indexed, tiny_blip, tmp_path):
    record = tmp_path / "a.json"
    scorer = ("--scorer", f"blip:{tiny_blip}", "--candidates", 3)
    run = search("evaluate", captions, "--images", samples, *scorer, "--json", record, index=indexed)
    assert run.returncode == 0, run.stderr
    assert "3 candidates re-ranked" in run.stdout
    assert all(json.loads(record.read_text())[name]["reranked"] for name in ("text_to_image", "image_to_text"))


def test_what_is_left_out_is_counted_and_named(search, captions, samples, indexed):
    with captions.open("a") as file:
        file.write(json.dumps({"image": "nowhere.jpg", "captions": ["a dog"], "split": "dev"}) + "\n")
    run = search("evaluate", captions, "--images", samples, index=indexed)
    assert "left out: 1 x image is missing: nowhere.jpg" in run.stdout
    strict = search("evaluate", captions, "--images", samples, "--strict", index=indexed)
    assert strict.returncode == 2 and "nowhere.jpg" in strict.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image": "chelsea.png", "captions": ["a cat"]}\n{"image": "coffee', "line 2"),
        ('{"image": "chelsea.png", "captions": [7]}\n', "line 1"),
        ('{"image": "../chelsea.png", "captions": ["a cat"]}\n', "line 1"),
        ('{"image": "chelsea.png", "captions": ["a cat"]}\n' * 2, "line 2"),
        ("image,caption,oops\na,b\n", "captions.jsonl"),
        ("", "captions.jsonl"),
    ],
)
def test_a_malformed_captions_file_is_one_line_with_its_place(search, captions, samples, indexed, content, message):
    captions.write_text(content)
    run = search("evaluate", captions, "--images", samples, index=indexed)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert message in run.stderr


@pytest.mark.parametrize("words", [("--split", "test"), ("--k", "0"), ("--k", "a"), ("--limit", "0")])
def test_bad_options_are_refused(search, captions, samples, indexed, words):
    run = search("evaluate", captions, "--images", samples, *words, index=indexed)
    assert run.returncode == 2 and "Traceback" not in run.stderr


def test_a_target_that_cannot_be_written_is_told_before_the_work(search, captions, samples, tmp_path):
    target = tmp_path / "no" / "a.json"
    run = search("evaluate", captions, "--images", samples, "--json", target, index=tmp_path / "none")
    assert run.returncode == 2 and "is no folder" in run.stderr and "images/s" not in run.stderr


def test_a_comparison_of_something_else_is_one_line(search, captions):
    run = search("compare", captions, captions)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1


# Batches.


def test_a_batch_answers_line_by_line_what_single_queries_answer(search, indexed, tmp_path):
    queries = ["a cat", "a cup of coffee", "a temple"] * 30
    (tmp_path / "queries.txt").write_text("\n".join(queries))
    run = search("--batch", tmp_path / "queries.txt", "-k", 2, index=indexed)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == queries
    single = [json.loads(line) for line in search("a cat", "-k", 2, "--json", index=indexed).stdout.splitlines()]
    for hit, expected in zip(answers[0]["hits"], single, strict=True):
        assert hit["path"] == expected["path"] and hit["similarity"] == pytest.approx(expected["similarity"], abs=1e-4)


def test_an_empty_line_is_an_error_of_its_own_and_keeps_the_order(search, indexed, tmp_path):
    (tmp_path / "queries.txt").write_text("a cat\n\na temple\n")
    lines = search("--batch", tmp_path / "queries.txt", "-k", 1, index=indexed).stdout.splitlines()
    assert [json.loads(line).get("error") for line in lines] == [None, "the query is empty", None]


def test_answers_stream_while_queries_are_still_to_come(indexed):
    with Started(script_command("", "--batch", "-", "-k", 1, "-i", indexed), text=True) as batch:
        for query in ("a cat", "a cup of coffee"):
            batch.stdin.write(query + "\n")
            batch.stdin.flush()
            assert json.loads(batch.stdout.readline())["query"] == query
        batch.stdin.close()
    assert batch.process.returncode == 0


@pytest.mark.parametrize(
    "words", [("--batch", "nowhere.txt"), ("--batch", "-", "-k", "0"), ("a cat", "--batch", "-"), ("-k", "3")]
)
def test_a_batch_that_cannot_be_answered_says_why(search, indexed, words):
    run = search(*words, index=indexed)
    assert run.returncode == 2 and "Traceback" not in run.stderr and run.stderr


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_the_temporary_collection_is_removed(search, captions, samples, tmp_path, ends):
    (tmp_path / "temporary").mkdir()
    strict = []
    if ends == "in an error":  # once it was made
        shutil.copytree(samples, tmp_path / "photos")
        samples = tmp_path / "photos"
        next(samples.glob("*.png")).write_bytes(b"no picture")
        strict = ["--strict"]
    options = {"index": tmp_path / "none", "env": {"TMPDIR": str(tmp_path / "temporary")}}
    run = search("evaluate", captions, "--images", samples, *strict, **options)
    assert run.returncode == (2 if strict else 0), run.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
