# Everything a newcomer types. `make` alone lists the targets.
# Needs Python 3.11 or newer, Git and make; everything else goes into .venv, from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the locked environment into .venv

repro: $(READY)  ## check the parameters, then reproduce the whole study
	prunelab check
	dvc repro

test: $(READY)  ## run the tests (PYTEST_ARGS="-k pruning" for some, "-m gpu" on a GPU)
	pytest $(PYTEST_ARGS)

lint: $(READY)  ## style and types
	ruff check .
	ruff format --check .
	mypy

lock: $(READY)  ## renew requirements.lock within the ranges of pyproject.toml
	uv pip compile pyproject.toml --extra onnx --extra text --group dev --universal --generate-hashes --no-annotate \
	    --upgrade \
	    --custom-compile-command 'make lock' --output-file requirements.lock

clean:  ## remove what can be rebuilt without training: the environment and tool caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dvc_plots

# uv comes out of the same lock as everything else: its entry there is handed to pip, hashes and all.
# The package itself is built with the locked setuptools, so that nothing unhashed is fetched for it.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "prunelab needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	    { echo "could not create .venv: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --offline --editable .
	@touch $@
