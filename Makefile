# Everything a newcomer types. `make` alone lists the targets.
# Needs Python 3.11 or newer, Git and make; everything else goes into .venv: from requirements.lock what a study runs on,
# which its results rest on, and from requirements-dev.lock, which has the same versions, what tests it.
PYTHON ?= python3
UPGRADE := --upgrade
# Stages at a time: as many as the cores can run, unless JOBS=4 or the like is given.
JOBS :=
# Test processes, a file of tests each. They share the cores, so threads that wait had better not spin on them.
TEST_JOBS := 2
BIN := .venv/bin
# The container: what runs it, what it is called, whose files come out, and which GPUs it sees (none: GPUS=).
DOCKER ?= docker
IMAGE ?= prunelab
OWNER ?= $(shell id -u):$(shell id -g)
# compose.yaml has the flags. Hardened, only the checkout and /tmp can be written (HARDENED= for a shell that installs things).
FLAGS = $(shell tools/container-flags container)
HARDENED ?= $(shell tools/container-flags hardened)
GPUS ?= $(shell nvidia-smi --list-gpus > /dev/null 2>&1 && echo --gpus all)
READY := .venv/.ready
DEV := .venv/.ready-dev
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint audit lock image docker-repro docker-shell clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the locked environment into .venv (TORCH=cpu: without CUDA)

repro: $(READY)  ## check the parameters, then reproduce the whole study (JOBS=1: one stage at a time)
	prunelab repro $(if $(JOBS),--jobs $(JOBS))

test: $(DEV)  ## run the tests (PYTEST_ARGS="-k pruning" for some, TEST_JOBS=0 in one process)
	OMP_WAIT_POLICY=PASSIVE pytest --numprocesses $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(DEV)  ## style, types, imports between packages and spelling (.pre-commit-config.yaml)
	pre-commit run --all-files

# --strict: an audit that could not look up a package fails. What licences are allowed stands in pyproject.toml.
AUDIT := pip-audit --strict --disable-pip --require-hashes --progress-spinner=off

audit: $(DEV)  ## known vulnerabilities of what the locks name, and licences of what is installed
	pip-licenses
	$(AUDIT) --requirement requirements.lock
	$(AUDIT) --requirement requirements-dev.lock

# One version of a package for all supported Pythons, since results name the versions that they rest on.
COMPILE := uv pip compile pyproject.toml --group install --universal --fork-strategy fewest --generate-hashes \
	--no-annotate --custom-compile-command 'make lock'
RUN := --extra lite --extra onnx --extra s3 --extra ssh --extra text --extra timm

lock: $(READY)  ## renew both lock files within the ranges of pyproject.toml (make lock UPGRADE= moves no version)
	$(COMPILE) $(UPGRADE) $(RUN) --output-file requirements.lock
	$(COMPILE) $(UPGRADE) --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock
	python tools/stage_locks.py

image:  ## build the container image of requirements.lock (BUILD_ARGS="--build-arg BASE_IMAGE=...")
	$(DOCKER) build --build-arg REVISION="$$(git rev-parse HEAD 2> /dev/null || echo unknown)" $(BUILD_ARGS) --tag $(IMAGE) .

CONTAINER = $(DOCKER) run --rm $(FLAGS) --user $(OWNER) $(GPUS) $(HARDENED) --volume "$(CURDIR):/workspace" $(RUN_ARGS)

docker-repro: image  ## make repro inside the container, on the GPUs there are (RUN_ARGS="--network none")
	$(CONTAINER) $(IMAGE)

docker-shell: image  ## a shell in there
	$(CONTAINER) --interactive --tty $(IMAGE) bash

clean:  ## remove what can be rebuilt without training: the environment and tool caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dvc_plots

# The package itself is built with the locked setuptools, so that nothing unhashed is fetched for it.
$(READY): requirements.lock pyproject.toml tools/locked-environment.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "prunelab needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into .venv: $(if $(filter cpu,$(TORCH)),2 GB of disk,2 GB to download and 6 GB of disk; without CUDA 2 GB of disk: make setup TORCH=cpu)"
	tools/locked-environment.sh .venv $(PYTHON)
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --offline --editable .
	@touch $@

$(DEV): $(READY) requirements-dev.lock
	uv pip sync --python $(BIN)/python --require-hashes requirements-dev.lock
	uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --offline --editable .
	@touch $@
