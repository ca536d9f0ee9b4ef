"""Switches off the reports that libraries send about their users, for this process and those that it starts.

ONNX Runtime from 1.31 keeps a device id and a queue of events in the home folder, and uploads them. The model hub's
clients report the system and the downloads: huggingface_hub in its user agent, for which it also fetches a list of
programs to look for in the environment; hf_xet by a report of every transfer."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # the only value that counts: "true" leaves it on
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

Loaded = TypeVar("Loaded")

_switching = Lock()


def switch_off_reports() -> None:
    """Overrides the environment, since everyone is promised that nothing leaves the machine. Libraries read the
    variables when they are first imported, so call this before."""
    os.environ.update(SWITCHES)


def from_cache_first(load: Callable[[], Loaded]) -> Loaded:
    """Calls `load` with the model hub's clients offline, so that the hub does not hear of a model that is in their
    cache. Only if that fails, calls it again with the network. Raises what the second call raises."""
    from huggingface_hub import constants

    with _switching:
        was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return load()
        except Exception:
            if was_offline:
                raise
        finally:
            constants.HF_HUB_OFFLINE = was_offline
        return load()
