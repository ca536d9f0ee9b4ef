"""The offline pipeline: folders in, commits of a collection out.

`listing` finds image files, `plan` compares them with what a collection knows, `survey` does both for one run, and
`pipeline` carries the plan out: read, decode, encode, write, commit."""
