# Everything starts here: on a bare Debian 12 with Python 3.11, git, make and root, `make up` is
# the first command. `make` alone lists the others.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# The distribution's own Python first: the gate's unprivileged user must be able to read it, and
# one under a home folder it cannot.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3.13) python3)
# Processes of the tests: most of them wait for containers and timers.
JOBS ?= 2
UV_LOCK = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header

.PHONY: help up down test lint bench lock clean setup

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## the Python environment in .venv, from the lock file

$(STAMP): pyproject.toml requirements-dev.lock requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than 3.11: set PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "setup: installing python3-venv" >&2; \
		{ apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
			--no-install-recommends python3-venv; } >/dev/null \
		|| { echo "make: install the venv module of $(PYTHON)" >&2; exit 2; }; }
	@echo "setup: Python environment in $(VENV)" >&2
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes \
		-r requirements-uv.lock
	@$(BIN)/python -P greenroom/services/environment.py
	@touch $@

up: $(STAMP) ## get everything running, with the pool of this repository (or POOL=file.yaml)
	@$(BIN)/greenroom up $(if $(POOL),--pool $(POOL))

down: $(STAMP) ## stop everything; state is kept
	@$(BIN)/greenroom down

lint: $(STAMP) ## style and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

test: $(STAMP) lint ## lint, then every test; gets Docker and the base image itself
	@$(BIN)/python -P -m greenroom.services
	@$(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

bench: $(STAMP) ## the benchmarks behind the numbers in the docs
	@$(BIN)/python -m bench

lock: $(STAMP) ## resolve the dependencies anew into the lock files
	@echo uv | $(UV_LOCK) --upgrade - -o requirements-uv.lock
	@$(UV_LOCK) --upgrade pyproject.toml -o requirements.lock
	@$(UV_LOCK) --upgrade pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	@$(UV_LOCK) --upgrade deploy/base-image/tools.in -o deploy/base-image/tools.lock

clean: ## remove the environment and caches; nothing of an install's state
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
