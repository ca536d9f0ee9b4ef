"""Listing: gitignore patterns for files and folders to leave out."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_FILE = b".crosslookignore"
MAX_BYTES = 1_000_000  # of an ignore file

# In a regular expression, "." and "$" would stop at a line end inside a name. So line ends are replaced, in names and
# patterns, by a character that no decoded name holds.
_LINE_ENDS = str.maketrans({"\n": "\udc0a"})
_THROUGH_A_FOLDER = "ps_d"  # pathspec's group for a slash, after which a match may end before the path ends


@dataclass(frozen=True)
class _Pattern:
    line: str
    leaves_out: bool
    regex: re.Pattern[str]

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the entry itself. A match of a parent folder was handled there."""
        return any(
            _THROUGH_A_FOLDER not in self.regex.groupindex
            or match.group(_THROUGH_A_FOLDER) is None
            or match.end() == len(path)
            for match in self.regex.finditer(path)
        )


class Patterns:
    """gitignore patterns, all relative to one folder."""

    def __init__(self, patterns: Sequence[_Pattern] = ()) -> None:
        self._patterns = tuple(patterns)
        self._unmatched = set(range(len(self._patterns)))

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Whether a file or folder is left out; None if no pattern matches. path: relative to the patterns' folder.
        None of its parent folders is left out. The last pattern that matches decides."""
        entry = path.translate(_LINE_ENDS) + "/" * is_folder
        verdict = None
        for index in reversed(range(len(self._patterns))):
            if (verdict is None or index in self._unmatched) and self._patterns[index].matches(entry):
                self._unmatched.discard(index)
                verdict = self._patterns[index].leaves_out if verdict is None else verdict
        return verdict

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns that have matched nothing so far."""
        return tuple(self._patterns[index].line for index in sorted(self._unmatched))


def command_line_patterns(lines: Sequence[str]) -> Patterns:
    """The patterns of `--exclude`, of which none is a comment. Raises `ValueError` with the line that is no pattern."""
    patterns = []
    for line in lines:
        try:
            pattern = _compiled(f"\\{line}" if line.startswith("#") else line)
        except ValueError as error:
            raise ValueError(line) from error
        if pattern is None:
            raise ValueError(line)
        patterns.append(_Pattern(line, pattern.leaves_out, pattern.regex))
    return Patterns(patterns)


def read_ignore_file(path: bytes) -> tuple[Patterns, list[str]]:
    """The patterns of an ignore file, and its lines that are no patterns. Raises `OSError`."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"has more than {MAX_BYTES // 1_000_000} MB")
    patterns: list[_Pattern] = []
    bad: list[str] = []
    for line in os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).split("\n"):
        try:
            pattern = _compiled(line.removesuffix("\r"))
        except ValueError:
            bad.append(line)
        else:
            patterns += [] if pattern is None else [pattern]
    return Patterns(patterns), bad


def _compiled(line: str) -> _Pattern | None:
    """The pattern of a line; None for a comment or an empty line. Raises `ValueError` if it is no pattern."""
    from pathspec import GitIgnoreSpec  # a search does not need it

    for pattern in GitIgnoreSpec.from_lines([line.translate(_LINE_ENDS)]).patterns:
        if pattern.include is not None and pattern.regex is not None:
            return _Pattern(line, pattern.include, pattern.regex)
    return None
