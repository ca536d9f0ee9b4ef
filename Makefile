# `make demo`: index sample photos and search them. `make test`: the whole test suite. Both begin with nothing but
# Python 3.11+, and ask nothing.

PYTHON ?= python3
LEAN := .venv
FULL := .venv-torch
# How many processes run the tests: `make test JOBS=8`.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist worksteal

.PHONY: demo test test-lean test-torch lint lock weights clean

demo: .venv-demo/ready
	.venv-demo/bin/search demo

test: test-lean test-torch

# All that runs without torch, in an environment that has none.
test-lean: $(LEAN)/ready
	$(LEAN)/bin/python -m pytest -m "not torch" $(PARALLEL)

# The rest: open_clip, and the embedded model against timm and transformers.
test-torch: $(FULL)/ready
	$(FULL)/bin/python -m pytest -m torch $(PARALLEL)

lint: $(LEAN)/ready
	$(LEAN)/bin/ruff check .
	$(LEAN)/bin/ruff format --check .
	$(LEAN)/bin/mypy

# Record what the tests ran with.
lock: $(LEAN)/ready $(FULL)/ready
	( $(LEAN)/bin/pip freeze --exclude-editable; $(FULL)/bin/pip freeze --exclude-editable ) | sort -fu > constraints.txt

# Build the embedded model again from its published weights.
weights: $(FULL)/ready
	$(FULL)/bin/python -m retrieval.encoders.build_lite

.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --editable ".[cpu,demo]"
	touch $@

$(LEAN)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/pip install --quiet --constraint constraints.txt --editable ".[cpu,demo,dev]"
	touch $@

$(FULL)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/pip install --quiet --constraint constraints.txt --editable ".[cpu,build,demo,dev]"
	touch $@

clean:
	rm -rf .venv .venv-torch .venv-demo build dist crosslook-demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
