# Every target does its own set-up. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench faults lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.runtime ## Create .venv from deploy/requirements.lock and install the gateway into it

run: .venv/.runtime ## Start a gateway with stand-in issuers, exchange a token of each, serve until Ctrl-C (PORT=8080)
	@$(BIN)/gateway dev $(if $(PORT),--port $(PORT))

test: .venv/.dev ## Run every test; installs the servers that the tests need where it may
	@$(BIN)/python tests/install_servers.py
	@$(BIN)/python -m pytest

lint: .venv/.dev ## Check style, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/gateway check --policies policies
	@$(BIN)/gateway policy lint --policies policies --fail-on warning

bench: .venv/.dev ## Measure against the floor handler; prints the table of the README
	@$(BIN)/python tests/install_servers.py --bench
	@$(BIN)/python -m tests.benchmarks

faults: .venv/.dev ## Run the fault tests in full
	@$(BIN)/python tests/install_servers.py
	@$(BIN)/python -m pytest tests/faults tests/policy/test_cel_fuzzing.py --full-faults

lock: .venv/.dev ## Write both lock files anew from the ranges in pyproject.toml
	@$(PIP) install 'uv>=0.9'
	@$(BIN)/uv pip compile pyproject.toml --extra server --group build --upgrade --universal --generate-hashes --no-header \
		--no-emit-index-url --quiet --output-file deploy/requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --upgrade --universal --generate-hashes --no-header \
		--no-emit-index-url --quiet --output-file tests/requirements.lock

clean: ## Remove everything that was made here
	@rm -rf .venv tests/interoperability/node/node_modules .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make run PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.runtime: .venv/bin/python deploy/requirements.lock pyproject.toml
	@echo "Installing what the gateway needs into .venv ..."
	@$(PIP) install --require-hashes -r deploy/requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.runtime tests/requirements.lock
	@echo "Installing what the tests need into .venv ..."
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@
