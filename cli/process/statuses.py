"""Exit statuses of `search`."""

NOTHING_FOUND = 1
ERROR = 2  # that a user can mend
UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h
