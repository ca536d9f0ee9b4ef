"""Batches are loaded in advance, and losses read later, in the same order."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

pytestmark = pytest.mark.torch


def fed(count, ahead, load=lambda number: {"number": number}):
    from retrieval.training.learning.feeding import batches

    rng = np.random.default_rng(0)
    return batches(lambda: int(rng.integers(1000)), load, count, ahead)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_batches_are_the_same_however_many_are_loaded_in_advance(count):
    one_by_one = list(fed(count, 0))
    assert len(one_by_one) == count
    for ahead in (1, 3, 100):
        assert list(fed(count, ahead)) == one_by_one


def test_no_more_are_loaded_than_asked_for():
    loaded = []

    def load(number):
        loaded.append(number)
        return {"number": number}

    with closing(fed(50, 3, load)) as feed:
        next(feed)
    assert 1 <= len(loaded) <= 5


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_failure_to_load_comes_to_the_step_that_needs_the_batch(ahead):
    numbers = [batch["number"] for batch in fed(10, 0)]

    def load(number):
        if number == numbers[6]:
            raise OSError("the drive is away")
        return {"number": number}

    seen = []
    with pytest.raises(OSError, match="drive"):
        for batch in fed(10, ahead, load):
            seen.append(batch["number"])
    assert seen == numbers[:6]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_batch_for_which_memory_is_short_is_loaded_again_after_the_others(failures):
    import torch

    from retrieval.training.learning.feeding import batches

    drawn, asked, loading = iter(range(10)), [], []
    spared: list[list[int]] = []

    def load(number):
        asked.append(number)
        loading.append(number)
        try:
            if number == 4 and asked.count(4) <= failures:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            if number == 4:
                assert loading == [4], "the others are loaded"
            return {"number": number}
        finally:
            loading.remove(number)

    def spare_memory():
        spared.append(list(asked))
        return True

    seen = []
    feed = batches(lambda: next(drawn), load, 10, 3, spare_memory)
    if failures == 2:
        with pytest.raises(torch.cuda.OutOfMemoryError), closing(feed):
            seen += [batch["number"] for batch in feed]
    else:
        seen += [batch["number"] for batch in feed]
        assert seen == list(range(10)) and asked.count(4) == 2
    assert len(spared) == 1


@pytest.mark.parametrize("lag", [0, 1, 4, 20])
def test_losses_are_read_in_order_and_none_is_lost(lag):
    import torch

    from retrieval.training.learning.feeding import Losses

    losses, read = Losses(lag), []
    for step in range(10):
        read += list(losses.put({"itc": torch.tensor(step / 3), "lm": torch.tensor(2.0 * step)}))
        assert len(read) == max(0, step + 1 - lag)
    read += list(losses.rest())
    assert read == [{"itc": torch.tensor(step / 3).item(), "lm": 2.0 * step} for step in range(10)]
