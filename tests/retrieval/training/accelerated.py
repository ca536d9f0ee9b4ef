"""What a GPU does, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest


def accelerate(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let training do all that it does on a GPU, in bfloat16 and by one kernel, but for `changes` of `Acceleration`."""
    from retrieval.training import accelerator

    everything = accelerator.Acceleration(
        half=True, fused=True, ahead=3, lag=2, makes_views=True, keeps_features=True, keeps_photos=True
    )
    patch.setattr(accelerator, "acceleration", lambda: replace(everything, **changes))


IN_FLOAT32 = {"half": False, "fused": False, "makes_views": False}  # then not a bit is different
