"""How the process of a run begins and ends: standard streams, signals, libraries' messages and the exit status.

In come errors and signals, whatever their source; out go an exit status and at most one line on stderr."""
