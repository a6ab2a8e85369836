# One command per habit. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

# Every folder of services/ that has an environment of its own.
SERVICES := $(filter-out runtime,$(notdir $(patsubst %/pyproject.toml,%,$(wildcard services/*/pyproject.toml))))
TOOLS := .venvs/tools/bin
PROTOS := $(wildcard proto/parfocal/v1/*.proto)

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

envs: ## Make or refresh the environments from the lock files
	@deploy/tools/envs tools orchestrator $(SERVICES)

demo: ## Train, check and apply a model on this machine (METHOD=stardist-2d for another, DATA=FOLDER for your own pairs)
	@deploy/tools/envs tools orchestrator qc catalog
	@service=$$(.venvs/orchestrator/bin/python deploy/tools/service-of "$(or $(METHOD),care-2d)") && deploy/tools/envs "$$service"
	@.venvs/orchestrator/bin/parfocal demo $(if $(DATA),--data "$(DATA)") $(if $(METHOD),--method "$(METHOD)")

test: envs ## Run all tests
	@deploy/tools/envs napari node
	@tests/run

chaos: envs ## Kill and pause at random for minutes (SEED=1 CONFIG=shared|apart KILLS=100 MINUTES=11 OUT=FOLDER)
	@PYTHONPATH="tests$${PYTHONPATH:+:$$PYTHONPATH}" .venvs/orchestrator/bin/python -m chaos --seed $(or $(SEED),1) \
	    --config $(or $(CONFIG),shared) --kills $(or $(KILLS),100) --minutes $(or $(MINUTES),11) --out "$(or $(OUT),build/chaos-$(or $(SEED),1)-$(or $(CONFIG),shared))"

lint: envs ## Check style, spelling, types, the contract and that generated files are current
	@deploy/tools/lint

proto: ## Regenerate the Python package of the contract
	@deploy/tools/envs tools stubs
	@$(TOOLS)/buf format --write proto
	@rm -f proto/parfocal/v1/*_pb2*
	@PATH="$$PWD/.venvs/stubs/bin:$$PATH" .venvs/stubs/bin/python -m grpc_tools.protoc -I proto \
	    --python_out=proto --mypy_out=quiet:proto --grpc_python_out=proto --mypy_grpc_out=quiet:proto $(PROTOS)

dist: ## Build the wheels of contract, runtime and orchestrator into dist/, to be installed elsewhere
	@deploy/tools/envs tools
	@deploy/tools/dist

images: ## Build the container images (BASE=IMAGE@sha256:… UNITS="care qc" VARIANT=cpu|gpu PREFIX=…/ TRACES=1), see docs/images.md
	@BASE="$(BASE)" BUILD_BASE="$(BUILD_BASE)" VARIANT="$(or $(VARIANT),cpu)" PREFIX="$(PREFIX)" TRACES="$(TRACES)" PIP_CONFIG="$(PIP_CONFIG)" \
	    CERTIFICATES="$(CERTIFICATES)" PACKAGES="$(PACKAGES)" deploy/images/build $(UNITS)

docs: envs ## Write the tables of parameters and settings into the pages of docs/
	@deploy/tools/docs $(CHECK) $(SERVICES)

manifests: ## Write what the manifests of Kubernetes say of each service
	@deploy/tools/manifests $(CHECK)

messages: envs ## Write what users read (help, forms, errors, verdicts) into tests/messages.md
	@deploy/tools/messages $(CHECK)

locks: ## Renew the lock files
	@deploy/tools/envs tools
	@deploy/tools/lock tools stubs images orchestrator napari $(SERVICES)

new-method: ## Make the folders of a new method family (NAME=family)
	@deploy/tools/new-method "$(NAME)"

format: ## Format the Python files
	@$(TOOLS)/ruff check --fix --quiet . ; $(TOOLS)/ruff format --quiet .

.PHONY: help envs demo test lint proto docs messages manifests locks new-method format chaos images dist
