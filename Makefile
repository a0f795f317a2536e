# Every target makes what it needs; `make demo` and `make test` work on a fresh clone.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help setup extras demo test test-all bench check format pins clean

PYTHON ?= python3
BIN := .venv/bin
DATA ?=
JSON ?=
PRESETS ?=
SEEDS ?=
# A file's tests share a cloud, so they stay in one process; a process takes about 1 GB.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile
# The environment is as good as the files that say what is in it.
STAMP := .venv/.installed
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/dev.txt)

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything and the pushtrain command

$(STAMP): requirements/dev.txt requirements/torch.txt pyproject.toml
	@PYTHON="$(PYTHON)" UV_VERSION="$(UV_VERSION)" bash requirements/install.sh
	@touch $@

extras: policy/.venv/.installed .venv/checkov/.installed ## Make the policy pack's environment and checkov's; tests that want them skip without

policy/.venv/.installed: policy/requirements.txt | $(STAMP)
.venv/checkov/.installed: requirements/checkov.txt | $(STAMP)
policy/.venv/.installed .venv/checkov/.installed:
	@$(BIN)/python -m venv $(@D)
	@$(BIN)/uv pip install --quiet --require-hashes --python $(@D)/bin/python -r $<
	@touch $@

demo: $(STAMP) ## Run the whole loop here; DATA=FILE trains on that, JSON=FILE writes the result
	@$(BIN)/pushtrain demo $(if $(DATA),--data "$(DATA)") $(if $(JSON),--json "$(JSON)")

test: $(STAMP) ## Run every test that can run on this machine
	@$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE)

test-all: $(STAMP) ## Run the slow proofs too
	@$(BIN)/python -m pytest

bench: $(STAMP) ## Time the trainer beside its predecessor: DATA=FILE of CIFAR-10, PRESETS=quick, SEEDS=N, JSON=FILE
	@$(BIN)/python -m bench.train $(if $(DATA),--data "$(DATA)") $(if $(PRESETS),--presets "$(PRESETS)") $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(JSON),--json "$(JSON)")

check: $(STAMP) ## Lint, types, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/codespell
	@$(BIN)/hadolint trainer/Dockerfile examples/*/Dockerfile
	@$(BIN)/shellcheck .ci/run .ci/actionlint requirements/*.sh examples/*/*.sh
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/zizmor --quiet --offline --pedantic .github
	@.ci/actionlint

format: $(STAMP) ## Let ruff lay out and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

pins: $(STAMP) ## Compile the hashed pins anew from pyproject.toml
	@UV="$(BIN)/uv" bash requirements/compile.sh

clean: ## Remove the environment and everything made
	rm -rf .venv policy/.venv .pytest_cache .ruff_cache .hypothesis .coverage demo-output build dist *.egg-info
