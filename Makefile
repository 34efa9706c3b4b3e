# Everything a fresh machine needs: git, make, Python 3.11+ and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
EXTRAS ?= all,dev
STAMP  := $(VENV)/.installed
RUNS   := $(VENV)/.installed-demo
DIST   := build/wheel

# The suite waits more than it computes, so six processes keep two cores busy. Each takes some 10 s to start:
# a part of the suite (ARGS=tests/unit) runs in one, unless WORKERS is given.
WORKERS := $(if $(ARGS),0,6)
PYTEST  := -m pytest --numprocesses=$(WORKERS) --dist=loadgroup

# Tests start some hundred Python processes. Without compiled files each would compile all it imports: half a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-wheel check quick lint style types imports format bench bench-check chaos ddl clean

# The demo needs less than the tests, so it begins a minute earlier.
demo: $(if $(wildcard $(STAMP)),$(STAMP),$(RUNS))
	$(BIN)/unstale demo $(ARGS)

# The pages as a site with search, in build/site. A link that leads nowhere fails it.
docs: $(STAMP)
	$(BIN)/python deploy/site/build.py $(ARGS)

test: $(STAMP)
	$(BIN)/python $(PYTEST) $(ARGS)

# The tests against what users install: the built wheel in an environment of its own.
test-wheel:
	rm -rf $(DIST)
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST)/venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DIST) .
	$(DIST)/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$$(ls $(CURDIR)/$(DIST)/*.whl)[all,dev]"
	$(DIST)/venv/bin/python $(PYTEST) $(ARGS)

# What to run before each commit: all of `lint` beside the quick tests.
check: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types quick style imports

quick: $(STAMP)
	$(BIN)/python -m pytest -q tests/unit tests/tutorial

lint: style types imports

style: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	PYTHONPATH=core:worker $(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	for bench in hits breaker pools idle takeover writepath capture_cpu ddl drain latency over_https refresh sight opening rules values comparison peers scale; do $(BIN)/python bench/$$bench.py $(ARGS) || exit 1; done

# Short runs, whose ratios are compared with those of bench/results/ratios.json; `ARGS=--write` stores them anew.
bench-check: $(STAMP)
	$(BIN)/python bench/check.py $(ARGS)

# 10,000 random sequences of DDL under a watched table; the suite runs 100.
ddl: $(STAMP)
	UNSTALE_TEST_DDL_SEQUENCES=$${UNSTALE_TEST_DDL_SEQUENCES:-10000} $(BIN)/python -m pytest -v --numprocesses=2 tests/properties/test_any_ddl.py $(ARGS)

chaos: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

$(STAMP) $(RUNS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"unstale needs Python 3.11 or newer, and {sys.executable} is {v[0]}.{v[1]}: run make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(if $(findstring demo,$@),embedded,$(EXTRAS))]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
