"""The one error that a user can mend."""


class CrosslookError(Exception):
    """One line: the file or setting, the reason, the remedy. The command line prints it and exits with 2."""
