# One vocabulary for a laptop and for CI. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
# PAWL_ENV=system: this Python has everything. IN=image: the pipeline runs in Dockerfile.train's environment.
PY := $(if $(filter system,$(PAWL_ENV)),$(PYTHON),$(if $(EXAMPLE),../../../)$(BIN)/python)
# EXAMPLE=name: in that example's folder, with its code and its own registry.
INSIDE = { cd .pawl/examples/$(EXAMPLE) 2>/dev/null || { echo "error: nothing ran for EXAMPLE=$(EXAMPLE) yet" >&2; echo "  fix: make run EXAMPLE=<$(notdir $(patsubst %/params.yaml,%,$(wildcard examples/*/params.yaml)))>" >&2; exit 2; }; }
PY := $(if $(EXAMPLE),$(INSIDE) && PYTHONPATH=src MLFLOW_TRACKING_URI= )$(PY)
# A variable that is mistyped would do nothing. Those with a _ may be the environment's.
TAKEN := ADULT ARGS BASE COMMIT DATA EXAMPLE FROM HOST IN NOTE PORT PROFILE PYTHON TARGET VERSION YES
GIVEN := $(foreach each,$(.VARIABLES),$(if $(filter command,$(origin $(each))),$(if $(findstring _,$(each)),,$(each))))
$(if $(filter-out $(TAKEN),$(GIVEN)),$(error $(filter-out $(TAKEN),$(GIVEN)) is not known; there are: $(TAKEN)))
$(if $(filter-out image,$(IN)),$(error IN=$(IN) is not known: IN=image, or nothing))
RUN := $(PYTHON) -m $(if $(filter image,$(IN)),scripts.in_image)
BUNDLE := $(wildcard models/bundle/manifest.json)
PROFILES := $(if $(BUNDLE),--profile serve) $(PROFILE:%=--profile %)
export NOTE
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
.DEFAULT_GOAL := help
.PHONY: help run init pipeline preflight report track register models serve ui image up down test e2e gate-selftest lint format schema push pull relock update lock bench env clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: pipeline ## The whole loop here: pipeline, gate, registry, a service that is asked [EXAMPLE=iris: of what lies in examples/iris]
ifeq ($(filter-out --%,$(ARGS)),)
	@echo && $(PY) -m scripts.report
	@$(PY) -m scripts.smoke & asked=$$!; trap "kill $$asked" INT TERM; $(PY) -m scripts.register; code=$$?; wait $$asked && exit $$code
ifneq ($(EXAMPLE),)
	@$(PY) ../../../examples/rows.py
	@echo "next: \`make serve EXAMPLE=$(EXAMPLE)\`, \`make ui EXAMPLE=$(EXAMPLE)\`"
else
	@grep -q '"allowed": true' reports/report.json && echo "next: \`make serve\`, \`make ui\`; \`$(PY) -m scripts.promote\` makes it the champion" \
		|| echo "next: look at reports/report.html: the gates say no, and no version was made; or \`make serve\` it here all the same"
	@echo "      or change a value in params.yaml, \`make run\`, \`make report BASE=HEAD\`"
endif
endif

init: env ## Your table: params.yaml, schema.yaml and gates.yaml for it [DATA=customers.csv TARGET=churned YES=1]
	@$(PY) -m scripts.init --data "$$DATA" --target "$$TARGET" $(if $(YES),--yes) $(ARGS)

pipeline: ## From the table in params.yaml to an evaluated model [IN=image: in Dockerfile.train's environment]
	@$(if $(ADULT),ADULT='$(ADULT)') $(RUN) scripts.run $(if $(EXAMPLE),--example $(EXAMPLE)) $(ARGS)

preflight: env ## What this machine has to train with [IN=image]
	@$(if $(IN),$(RUN),$(PY) -m) scripts.preflight

report: env ## Gates, and the model against another commit's [BASE=origin/main]
	@$(if $(IN),$(RUN),$(PY) -m) scripts.report $(if $(BASE),--base $(BASE)) $(ARGS)

track: env ## Log the model as one MLflow run [NOTE="what was tried"]
	@$(PY) -m scripts.track $(ARGS)

register: env ## Make it a version of the registry: the candidate
	@$(PY) -m scripts.register $(ARGS)

models: env ## The versions: verdict, commit, champion from when to when, image
	@$(PY) -m scripts.models $(ARGS)

serve: env ## The service of models/bundle, on http://127.0.0.1:8000
	@$(PY) -m pawl.serving

ui: env ## MLflow's pages on the embedded registry, on http://127.0.0.1:5000 [HOST=0.0.0.0 PORT=8080]
	@$(PY) -m scripts.ui $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

image: env ## The image of the service
	@$(PY) -m scripts.image $(ARGS)

up: env ## The stack of compose.yaml: MLflow on Postgres and S3, Prometheus, the service where there is a bundle [PROFILE=monitoring]
	@$(if $(BUNDLE),image=$$($(PY) -m scripts.image | tail -n 1) && MODEL_IMAGE=$$image) docker compose $(PROFILES) up --detach --build --wait >&2
	@docker compose ps --format '{{range .Publishers}}{{if .PublishedPort}}{{printf "%-10s http://%s:%d" $$.Service .URL .PublishedPort}}{{end}}{{end}}' | sed '/^$$/d'
	@echo "next: \`MLFLOW_TRACKING_URI=http://127.0.0.1:$${MLFLOW_PORT:-5000} make run\`, or \`docker compose run --rm trainer\`"

down: ## End the stack; what it holds stays [ARGS=--volumes: that goes too]
	@docker compose --profile '*' down $(ARGS)

test: env ## The test suite
	@$(BIN)/python -m pytest $(ARGS)

e2e: env ## The tests that need servers, or are long: see tests/README.md
	@$(BIN)/python -m pytest -m e2e -n 0 $(ARGS)

gate-selftest: env ## The gate against every sabotage known to us [ARGS="--only creep"]
	@$(PY) -m scripts.selftest $(ARGS)

lint: env ## Style, types, layers; workflows, Dockerfiles, manifests, Markdown
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m scripts.lint

format: env ## Write the style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/rumdl fmt --config pyproject.toml --no-cache --silent .

schema: env ## Infer schema.yaml from the table in params.yaml
	@$(BIN)/python -m scripts.schema $(ARGS)

push: env ## Send outputs to the DVC remote
	@$(BIN)/dvc push

pull: env ## Fetch the outputs that dvc.lock names from the DVC remote, each held to its name
	@$(PY) -m scripts.pull $(ARGS)

relock: env ## Settle a merge conflict in dvc.lock
	@$(BIN)/python -m scripts.relock

update: env ## Take a later version of the template [VERSION=v0.2.0 FROM=its address]
	@$(PY) -m scripts.update $(if $(VERSION),--version '$(VERSION)') $(if $(FROM),--from '$(FROM)') $(ARGS)

lock: env ## Renew requirements/*.txt from requirements/*.in
	@$(BIN)/python -m scripts.lock $(ARGS)

bench: env ## Measure; writes benchmarks/results/
	@$(BIN)/python benchmarks/pipeline.py $(ARGS)
	@$(BIN)/python benchmarks/gate.py $(ARGS)
	@$(BIN)/python benchmarks/registry.py
	@$(BIN)/python benchmarks/serving.py

env: ## The environment in .venv, from the hashed lock
	@$(PYTHON) -m scripts.environment

clean: ## Remove what the pipeline made, and the environment
	rm -rf .venv .pawl data models mlflow.db mlartifacts
	find reports -mindepth 1 ! -name metrics.json -delete
