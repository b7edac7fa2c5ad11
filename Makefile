# Everything creates what it needs: each target works in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two processes: one has the end-to-end tests that share a stack, the other the rest (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

SCRIPTS := deploy/init deploy/backup deploy/restore deploy/open-cluster $(wildcard deploy/*.sh deploy/*/*.sh) tests/ensure_tools.sh

.PHONY: help install demo up test test-long test-fast check format docs openapi lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## Make .venv with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Installing into $(VENV) (a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Start the service, sweep the census data over REST, print what came out
	$(BIN)/sweep demo

up: $(INSTALLED) ## Run the service on this machine until Ctrl-C
	$(BIN)/sweep up

test: $(INSTALLED) ## Run the tests, on real Ray, SQLite, PostgreSQL and MLflow
	@sh tests/ensure_tools.sh
	$(PYTEST) -m "not long"

test-long: $(INSTALLED) ## Run all tests, also those that show the same in more ways
	@sh tests/ensure_tools.sh
	$(PYTEST)

test-fast: $(INSTALLED) ## Run the tests that take seconds
	@sh tests/ensure_tools.sh
	$(PYTEST) -m "not slow"

check: $(INSTALLED) ## Lint, check types and the rule of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/docker/Dockerfile
	$(BIN)/shellcheck $(SCRIPTS)

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## Write docs/spec.md, the reference of the spec, from the code
	$(BIN)/python docs/make_spec_reference.py > docs/spec.md.new
	mv docs/spec.md.new docs/spec.md

openapi: $(INSTALLED) ## Write tests/api/openapi.json, the API's description, from the code
	$(BIN)/python -m api.openapi > tests/api/openapi.json.new
	mv tests/api/openapi.json.new tests/api/openapi.json

lock: $(INSTALLED) ## Write constraints.txt from what is installed
	sh deploy/lock.sh $(BIN)/python

clean: ## Remove what the targets have made
	rm -rf $(VENV) .sweep-demo demo-result.json .pytest_cache .ruff_cache .hypothesis *.egg-info
