# Everything sets itself up: `make demo` needs Python 3.11 or later and a package index, nothing else; `make test` also
# needs a RabbitMQ server, and installs the distribution's where it may (root, apt-get).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

RABBITMQ := /usr/lib/rabbitmq/bin/rabbitmq-server

.PHONY: help demo demo-rabbitmq test test-rabbitmq test-slow check docs bench bench-rabbitmq clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Telex needs Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv" ; apt-get update -qq && apt-get install -y -qq python3-venv; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the environment into $(VENV) (once)"
	@$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -q --editable '.[all]' --group dev --group demo --group bench
	@touch $@

$(RABBITMQ):
	@if test -z "$(TELEX_TEST_AMQP)$(TELEX_TEST_RABBITMQ_HOME)" && test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	    echo "installing rabbitmq-server from the distribution (once)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null \
	    && { systemctl disable --now rabbitmq-server || { service rabbitmq-server stop; update-rc.d rabbitmq-server disable; }; } >/dev/null 2>&1; \
	fi; true  # The tests start a node of their own, and where there is no server they say what to install.

demo: $(READY) ## a year of flights with a worker killed in the middle; URL=amqp://… RESTART=COMMAND: on a broker that is restarted
	@TELEX_URL='$(URL)' $(BIN)/python -m examples.flights --restart '$(RESTART)'

demo-rabbitmq: $(READY) $(RABBITMQ) ## the same on a RabbitMQ node of its own, which is killed on the way
	$(BIN)/python -m tests.brokers sh -c '$(BIN)/python -m examples.flights --restart "$$TELEX_RESTART"'

test: $(READY) $(RABBITMQ) ## everything that runs within 20 minutes, also on a RabbitMQ node of its own
	$(BIN)/python -m pytest -m "not slow"

test-rabbitmq: $(READY) $(RABBITMQ) ## of that what needs RabbitMQ; without it: pytest -m "not slow and not broker"
	$(BIN)/python -m pytest -m "not slow and broker"

test-slow: $(READY) $(RABBITMQ) ## the long fault runs too
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

bench-rabbitmq: $(READY) $(RABBITMQ) ## the same on a RabbitMQ node of its own, beside the peers on RabbitMQ
	$(BIN)/python -m bench rabbitmq

clean: ## removes what make made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
