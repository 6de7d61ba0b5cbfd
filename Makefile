# make quickstart   set up .venv and run the first experiment
# make test         set up .venv and run the tests
# make check        ruff, mypy, layers
# make test-all     the tests, with the slow ones
PYTHON ?= python3
BIN := .venv/bin
# Processes that have the tests among them: one more than there are cores, because tests on Ray wait
# much of their time; but each takes a gigabyte.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(8, 1 + (os.cpu_count() or 1)))")

.PHONY: quickstart test test-all check setup clean

quickstart: .venv/.installed
	$(BIN)/codex-ray run experiments/quickstart.yaml

test: .venv/.installed-dev
	$(BIN)/pytest -n $(WORKERS) -m "not slow and not gpu"

# In one process: some of the slow tests measure.
test-all: .venv/.installed-dev
	$(BIN)/pytest

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

setup: .venv/.installed-dev

# pip, not another installer: it takes a CPU wheel of torch where the machine holds one.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'codex_ray needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs
