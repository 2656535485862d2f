# Everything sets itself up: `make demo` and `make test` need Python 3.11 or later and a package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-slow check docs bench clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Telex needs Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv" ; apt-get update -qq && apt-get install -y -qq python3-venv; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the environment into $(VENV) (once)"
	@$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -q --editable . --group dev --group demo --group bench
	@touch $@

demo: $(READY) ## a year of flights through topics, groups, a queue and requests, with a worker killed in the middle
	$(BIN)/python -m examples.flights

test: $(READY) ## everything that runs within 20 minutes
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY) ## the long fault runs too
	$(BIN)/python -m pytest

check: $(READY) ## format, lint, types, import direction, documents, recipes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/docs tests/examples/test_recipes_web.py tests/examples/test_recipes_worker.py

docs: $(READY) ## the documents as a site with a search box, in build/site
	$(BIN)/python -m tests.docs.tables
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "to read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

bench: $(READY) ## speed beside the peers, in one run
	$(BIN)/python -m bench

clean: ## removes what make made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
