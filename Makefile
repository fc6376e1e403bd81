# Each target works on a machine that has only Python 3.11 or later, git and make: it makes .venv and installs into it.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: demo test explore mutants lint types wheel bench clean
.DEFAULT_GOAL := test

demo: .venv/cli.stamp ## replay a sample in a process that is killed under way, then count
	$(BIN)/turnkeeper demo

test: .venv/dev.stamp ## every test
	$(BIN)/python -m pytest -n auto --dist loadfile

explore: .venv/dev.stamp ## seeds that nobody has run yet, under a minute
	$(BIN)/turnkeeper simulate desk --for 8
	$(BIN)/turnkeeper simulate programs --for 8
	$(BIN)/turnkeeper simulate clients --for 6
	$(BIN)/turnkeeper simulate handlers --for 5
	$(BIN)/turnkeeper simulate doubts --for 8
	$(BIN)/turnkeeper simulate kernel --for 3
	$(BIN)/turnkeeper simulate trees --for 2
	$(BIN)/turnkeeper simulate participants --for 2
	$(BIN)/turnkeeper simulate waiting --for 8

mutants: .venv/dev.stamp ## plant each bug, and count the seeds until it is found
	$(BIN)/python tests/mutants

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

wheel: .venv/dev.stamp ## build, install into an empty environment, run
	$(BIN)/python tests/wheel.py

bench: .venv/dev.stamp ## each benchmark beside its floor, two beside their peers, a few minutes
	$(BIN)/python -m benchmarks.durable_turns
	$(BIN)/python -m benchmarks.messages
	$(BIN)/python -m benchmarks.restarts
	$(BIN)/python -m benchmarks.idle_agents
	$(BIN)/python -m benchmarks.crash_ledger
	$(BIN)/python -m benchmarks.double_texting

clean:
	rm -rf .venv dist

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "turnkeeper needs Python 3.11 or later on the PATH" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/cli.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/cli.stamp
