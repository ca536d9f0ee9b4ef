"""ONNX Runtime sessions, by which model files run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from indexes.errors import CrosslookError
from retrieval.cores import usable_cores
from retrieval.privacy import switch_off_reports

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Value = TypeVar("Value")

SHIPPED = Path(__file__).parents[1] / "weights"  # folder of the models that ship
ERRORS = 3  # the least severity that ONNX Runtime logs, on stderr

_SHARING = Lock()


def import_onnxruntime(part: str = "") -> Any:
    """The module `onnxruntime`, or a submodule by its dotted name, with telemetry switched off. No other function
    imports it."""
    switch_off_reports()
    host_imported_it = "onnxruntime" in sys.modules
    onnxruntime = importlib.import_module("onnxruntime")
    if hasattr(onnxruntime, "disable_telemetry_events"):  # needed if a host program has imported the module before
        onnxruntime.disable_telemetry_events()
    if not host_imported_it:  # a host program configures its log itself
        onnxruntime.set_default_logger_severity(ERRORS)
    return importlib.import_module(f"onnxruntime.{part}") if part else onnxruntime


class once(Generic[Value]):
    """A property that is computed once, when it is first read; threads that read it meanwhile wait. After an exception
    the next read computes again. (`functools.cached_property` has no lock from Python 3.12 on, and in 3.11 one lock for
    all objects of a class.)"""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Value: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Self | Value:
        if instance is None:
            return self
        computed = vars(instance)  # a value in it is read without calling this method
        with computed.setdefault(f"computing {self._name}", RLock()):
            if self._name not in computed:
                computed[self._name] = self._compute(instance)
            value: Value = computed[self._name]
            return value


def open_session(model: Path, remedy: str | None = None) -> InferenceSession:
    """A session over one ONNX file, on the processor. remedy: of a damaged file, for the message; by default that of a
    file that ships, or of one that `search train` wrote.

    Raises `CrosslookError` when the file is missing or damaged."""
    onnxruntime = import_onnxruntime()
    with _SHARING:
        _share_threads()
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = ERRORS
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or "bad_alloc" in reason or "allocate memory" in reason:
            raise CrosslookError(f"cannot load {model}: there is not enough memory now") from error
        if remedy is None:
            remedy = "reinstall crosslook" if SHIPPED in model.parents else "train the model again"
        raise CrosslookError(f"cannot load {model}: {reason} ({remedy})") from error


@cache
def _share_threads() -> None:
    """One pool for all sessions, with as many threads as this process may use. With a pool for each session, the
    waiting threads of one, which spin, would take the cores from the session that computes."""
    onnxruntime = import_onnxruntime()
    with suppress(import_onnxruntime("capi.onnxruntime_pybind11_state").Fail):  # a host program made one: it is shared
        onnxruntime.set_global_thread_pool_sizes(usable_cores(), 1)
