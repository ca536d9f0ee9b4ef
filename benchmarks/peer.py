"""rclip, the nearest peer, with a model of its architecture (ViT-B-32 at 256 pixels) and random weights, on which speed
does not depend. `python benchmarks/peer.py FOLDER` (extra `build`) makes the model files and an environment with rclip,
which needs the network once."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import venv
from pathlib import Path

import numpy as np

MODEL = "ViT-B-32-256"
FILES = "ViT-B-32-256-datacomp_s34b_b86k"
SEED = 0


def prepare(folder: Path) -> None:
    if not (folder / "venv" / "bin" / "rclip").exists():
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([folder / "venv" / "bin" / "pip", "install", "-q", "rclip"], check=True)
    if (folder / "data" / FILES / "textual.onnx").exists():
        return
    import open_clip
    import torch

    from retrieval.encoders.onnx_files import export, save

    models = folder / "data" / FILES
    models.mkdir(parents=True, exist_ok=True)
    vocabulary = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    (folder / "data" / "tokenizer").mkdir(exist_ok=True)
    shutil.copy(vocabulary, folder / "data" / "tokenizer")
    torch.manual_seed(SEED)
    torch.backends.mha.set_fastpath_enabled(False)
    model = open_clip.create_model(MODEL).eval()

    class Half(torch.nn.Module):
        def __init__(self, encode):  # type: ignore[no-untyped-def]
            super().__init__()
            self.model, self.encode = model, encode

        def forward(self, inputs):  # type: ignore[no-untyped-def]
            return self.encode(inputs)

    examples = {
        "visual": (model.encode_image, torch.zeros(2, 3, 256, 256)),
        "textual": (model.encode_text, torch.zeros(2, 77, dtype=torch.int64)),
    }
    for name, (encode, example) in examples.items():
        axes = {"input": {0: "n"}, "output": {0: "n"}}
        save(export(Half(encode), (example,), ["input"], ["output"], axes), models / f"{name}.onnx")


def environment(folder: Path) -> dict[str, str]:
    """The environment in which rclip finds its model files and its database."""
    return {**os.environ, "RCLIP_DATADIR": str(folder / "data")}


def fill(folder: Path, photos: Path, rows: int) -> None:
    """A database with random vectors of `rows` images, whose paths are in the folder `photos`."""
    database = folder / "data" / "db.sqlite3"
    database.unlink(missing_ok=True)
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    subprocess.run([folder / "venv" / "bin" / "rclip", "-t", "1", "x"], cwd=empty, env=environment(folder), check=False)
    rng = np.random.default_rng(SEED)
    with sqlite3.connect(database) as connection:
        for low in range(0, rows, 10_000):
            vectors = rng.normal(size=(min(10_000, rows - low), 512)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            connection.executemany(
                "INSERT INTO images(filepath, modified_at, size, vector, hash) VALUES (?, ?, ?, ?, ?)",
                [
                    (f"{photos}/IMG_{low + index:08d}.jpg", 1.0, 3_000_000, vector.tobytes(), f"{low + index:032x}")
                    for index, vector in enumerate(vectors)
                ],
            )


def query(folder: Path, text: str) -> list[str | Path]:
    """The command of a cold query, which runs in the folder of the photos."""
    return [folder / "venv" / "bin" / "rclip", "--no-indexing", "-t", "10", text]


def index(folder: Path) -> list[str | Path]:
    """The command that indexes the current folder."""
    return [folder / "venv" / "bin" / "rclip", "-t", "1", "a dog"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    prepare(parser.parse_args().folder)
