"""How many files this process may have open."""

from __future__ import annotations

from contextlib import suppress


def admit_files(count: int) -> None:
    """Let there be so many, as far as the system allows it: macOS begins with 256, Linux with 1,024."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or count <= soft:
        return
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
