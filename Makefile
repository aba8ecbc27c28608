# One vocabulary for a laptop and for CI. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
.DEFAULT_GOAL := help
.PHONY: help run test e2e lint format schema push pull relock lock bench env clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## The pipeline: from the table in params.yaml to an evaluated model [EXAMPLE=adult ADULT=folder]
	@$(if $(ADULT),ADULT='$(ADULT)') $(PYTHON) -m scripts.run $(if $(EXAMPLE),--example $(EXAMPLE)) $(ARGS)

test: env ## The test suite
	@$(BIN)/python -m pytest $(ARGS)

e2e: env ## The tests that need servers: a Docker engine, by DOCKER_HOST or the usual socket
	@$(BIN)/python -m pytest tests/e2e -m e2e -n 0 $(ARGS)

lint: env ## Style, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: env ## Write the style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

schema: env ## Infer schema.yaml from the table in params.yaml
	@$(BIN)/python -m scripts.schema $(ARGS)

push: env ## Send outputs to the DVC remote
	@$(BIN)/dvc push

pull: env ## Fetch the outputs that dvc.lock names from the DVC remote
	@$(BIN)/dvc pull

relock: env ## Settle a merge conflict in dvc.lock
	@$(BIN)/python -m scripts.relock

lock: env ## Renew requirements/*.txt from requirements/*.in
	@$(BIN)/python -m scripts.lock $(ARGS)

bench: env ## Measure; writes benchmarks/results/
	@$(BIN)/python benchmarks/pipeline.py $(ARGS)

env: ## The environment in .venv, from the hashed lock
	@$(PYTHON) -m scripts.environment

clean: ## Remove what the pipeline made, and the environment
	rm -rf .venv .pawl data models
