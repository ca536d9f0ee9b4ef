"""The command line. In: words and streams of a user. Out: text, pages, exit statuses. All work is done by `retrieval`.

One file for each command. `show/` is how things look, `process/` how a run begins and ends, `commands` which command
the words name, `main` the entry point."""
