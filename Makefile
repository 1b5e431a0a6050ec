# Needs Python 3.11 or newer and make; everything else goes into .venv, which is made once.
PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= auto

.PHONY: help demo test lint clean

help:
	@echo "make demo   train a teacher on digits, distil it, draw images (minutes, no GPU needed)"
	@echo "make test   run the tests"
	@echo "make lint   check format, style and types"
	@echo "make clean  remove .venv and caches"

demo: .venv/.installed
	$(PY) recipes/digits/demo.py

# One thread a worker: on few cores more threads only wait for each other.
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) $(PYTEST_ARGS)

lint: .venv/.installed-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@ .venv/.installed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
