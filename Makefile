# Everything that is done with this repository. `make` alone says what there is.
SHELL = /bin/sh
PYTHON ?=
MINUTES ?= 30
OPTIONS ?=
RUN = .venv/bin
READY = .venv/.ready
QUICK = -n auto --dist loadfile --no-loadscope-reorder -m "not services" --ignore=tests/services --ignore=tests/chaos --ignore=tests/browser --ignore=tests/openclaw

.DEFAULT_GOAL = help
.PHONY: help setup demo demo-heartbeat up test test-services test-openclaw lint lint-types lint-rest bench bench-router soak-router docs lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make the environment (.venv); every other target does it by itself

$(READY): requirements.lock .ci/environment
	@PYTHON="$(PYTHON)" .ci/environment

demo: $(READY) ## watch one work item go all the way, in a home of its own
	@$(RUN)/quarterdeck demo

demo-heartbeat: $(READY) ## a week of fifteen agents in seconds, with everything that can go wrong
	@$(RUN)/quarterdeck demo --heartbeat $(OPTIONS)

up: $(READY) ## open the desk; Ctrl-C closes it
	@$(RUN)/quarterdeck up

test: $(READY) ## the quick tests: no network, no root, some minutes
	$(RUN)/python -m pytest $(QUICK)

test-services: $(READY) ## the slow tests: real servers, killed and restarted
	$(RUN)/python -m pytest -m services -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test-openclaw: $(READY) ## a real OpenClaw gateway, installed in .openclaw on first use: minutes, 1 GB of memory
	$(RUN)/python -m pytest tests/openclaw -rP -o addopts="-q --strict-markers --strict-config"

lint: $(READY) ## style, types, floors of the house, the lock, generated files
	@$(MAKE) --no-print-directory -j 2 lint-types lint-rest

lint-types:
	$(RUN)/mypy

lint-rest:
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports
	@if grep -nE '://|^ *(--(index|extra|find|trusted)|-i |-f )' requirements.lock; then \
	    echo "requirements.lock names an address: make it anew with 'make lock'." >&2; exit 1; fi
	@if awk '/^[A-Za-z0-9]/ && !/\\$$/' requirements.lock | grep .; then \
	    echo "requirements.lock has an entry without a hash: make it anew with 'make lock'." >&2; exit 1; fi
	$(RUN)/python -m deployments.generated --check

bench: $(READY) ## measure speed and memory against their limits
	$(RUN)/python -m tests.bench

bench-router: $(READY) ## measure the router beside its peers, which are installed in .bench on first use
	@$(RUN)/python -m tests.bench.router $(OPTIONS)

soak-router: $(READY) ## half an hour of half load on the router (MINUTES=30): does it grow?
	@$(RUN)/python -m tests.bench.router_soak --minutes $(MINUTES) $(OPTIONS)

docs: $(READY) ## write anew what is generated: prefect.yaml, parts of docs/reference
	$(RUN)/python -m deployments.generated

lock: $(READY) ## resolve requirements.in into requirements.lock
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	    --no-emit-index-url --custom-compile-command "make lock" requirements.in -o requirements.lock

clean: ## remove .venv and caches; data/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .bench artefacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
