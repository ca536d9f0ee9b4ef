"""What is seen of a training run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from cli.show import steps
from retrieval.progress import Epoch, Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_losses_and_how_dev_came_out(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(
        "rich.console.Console", lambda **options: Console(file=terminal, force_terminal=True, width=160)
    )
    with steps.step_display() as observer:
        observer.note("training on 80 images")
        observer.step(Step("training images through the towers", 80, 80))
        for done in range(1, 22):
            observer.step(Step("scorer, epoch 1 of 2", done, 21, {"lm": 4.0, "itm": 0.5}))
        observer.epoch(Epoch("scorer", 0, {"lm": 4.25, "itm": 0.75}, {"text -> image": 0.307}))
        observer.step(Step("scorer, epoch 2 of 2", 1, 21, {"lm": 3.0}))
    text = terminal.getvalue()
    assert "training on 80 images" in text and "80/80" in text and "21/21" in text
    assert "lm 4.000, itm 0.500" in text
    assert "scorer, epoch 1: lm 4.250, itm 0.750; R@1 of dev text -> image 30.7" in text
    last = text[text.rindex("scorer, epoch 2 of 2") :]
    assert "lm 3.000" in last and "itm" not in last and "R@1 of dev text -> image 30.7" in last


def test_elsewhere_there_is_a_line_an_epoch_and_now_and_then_one_of_the_towers(capsys, monkeypatch):
    monkeypatch.setattr(steps, "EVERY_SECONDS", 0.0)
    with steps.step_display() as observer:
        observer.step(Step("dev images through the towers", 1_000, 2_000))
        observer.step(Step("heads, epoch 1 of 1", 1, 1, {"itc": 2.0}))
        observer.epoch(Epoch("heads", 0, {"itc": 2.0}, {"text -> image": 0.1, "image -> text": 0.2}))
    assert capsys.readouterr().err.splitlines() == [
        "dev images through the towers: 1,000 of 2,000",
        "heads, epoch 1: itc 2.000; R@1 of dev text -> image 10.0, image -> text 20.0",
    ]


def test_lines_do_not_come_faster_than_they_can_be_read(capsys):
    with steps.step_display() as observer:
        for done in range(1_000):
            observer.step(Step("dev images through the towers", done, 1_000))
    assert not capsys.readouterr().err
