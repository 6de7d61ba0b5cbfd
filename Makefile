# make quickstart   set up .venv and run the first experiment
# make demo         four hospitals' records, a private model of them, and an endpoint that answers
# make test         set up .venv and run the tests
# make check        ruff, mypy, layers
# make test-all     the tests, with the slow ones
PYTHON ?= python3
BIN := .venv/bin
# Processes that have the tests among them: one more than there are cores, because tests on Ray wait
# much of their time; but each takes a gigabyte.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(8, 1 + (os.cpu_count() or 1)))")

.PHONY: quickstart demo test test-all check setup clean

quickstart: .venv/.installed
	$(BIN)/codex-ray run experiments/quickstart.yaml

demo: .venv/.installed-serve
	$(BIN)/python experiments/heart_disease_demo.py

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
.venv/.made:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'codex_ray needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	touch $@

# Nothing is compiled ahead: most of what is installed is never imported.
.venv/.installed: pyproject.toml constraints.txt | .venv/.made
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

.venv/.installed-serve: .venv/.installed
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[serve]"
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/.made
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch .venv/.installed $@

clean:
	rm -rf .venv runs
