"""From JSON text to values of the expected type. Errors name the line or the entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.captions.entries import Caption
from retrieval.captions.errors import error_in, quoted


def parse_json(source: Path, text: str, line: int = 1, where: str = "") -> Any:
    """The value of `text`, whose first line is number `line` of the source."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        location = where or f"line {line + error.lineno - 1}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise error_in(source, "the JSON is cut off here: download or write the file again", location) from error
        reason = f"is not JSON ({error.msg} at column {error.colno}): correct it, or write the file again"
        raise error_in(source, reason, location) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested too deep
        raise error_in(source, "is not JSON that can be read: write the file again", where or f"line {line}") from error


def object_of(value: Any, source: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise error_in(source, f"is {_kind(value)}, not an object: write it as {{...}}", where)
    return value


def list_in(record: dict[str, Any], key: str, source: Path, where: str) -> list[Any]:
    value = _in(record, key, source, where)
    if not isinstance(value, list):
        raise error_in(source, f'"{key}" is {_kind(value)}, not a list: write it as [...]', where)
    return value


def string_in(record: dict[str, Any], key: str, source: Path, where: str) -> str:
    value = _in(record, key, source, where)
    if not isinstance(value, str):
        raise error_in(source, f'"{key}" is {_kind(value)}, not a string: put it in double quotes', where)
    return value


def caption_in(record: dict[str, Any], key: str, source: Path, where: str) -> Caption:
    return Caption(where, string_in(record, key, source, where))


def captions_in(record: dict[str, Any], key: str, source: Path, where: str) -> tuple[Caption, ...]:
    """The captions in a list of strings."""
    captions = []
    for position, value in enumerate(list_in(record, key, source, where)):
        if not isinstance(value, str):
            reason = f"{key}[{position}] is {_kind(value)}, not a string: put it in double quotes, or remove it"
            raise error_in(source, reason, where)
        captions.append(Caption(f"{where}, {key}[{position}]", value))
    return tuple(captions)


def _in(record: dict[str, Any], key: str, source: Path, where: str) -> Any:
    if key not in record:
        keys = ", ".join(quoted(name) for name in list(record)[:8]) or "nothing"
        raise error_in(source, f'has no "{key}" (it has {keys}): add it, or rename the key that holds it', where)
    return record[key]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds[type(value)]
