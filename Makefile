# Every command sets up what it needs: the Python environment, databases, settings. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
PYTHON_IN := $(VENV)/bin/python
STACK := $(PYTHON_IN) -m stack
export PYTHONPATH := plugins:.

# With it set, every process would compile Airflow again: 5 s of CPU each.
unexport PYTHONDONTWRITEBYTECODE

##@ Start here

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z-]*:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nSettings come from .env (see .env.example); state is kept in .penstock/ (PENSTOCK_HOME moves it).\n'

.PHONY: demo
demo: install ## Run every DAG once on the sandbox, compare with the vendors' totals, stop
	@$(STACK) demo

.PHONY: up
up: install ## Start Airflow, the warehouse and the sandbox, and stay until Ctrl-C
	@$(STACK) up

.PHONY: status
status: install ## Show what runs, the queue and the last syncs
	@$(STACK) status

.PHONY: down
down: install ## Stop a stack that runs in another shell
	@$(STACK) down

##@ Work with it

.PHONY: test-connections
test-connections: install ## Try every connection and account; say what to do where one fails
	@$(STACK) test-connections

.PHONY: backfill
backfill: install ## Load a range of days again: SOURCE=klaviyo FROM=2026-01-01 TO=2026-01-31
	@$(if $(and $(SOURCE),$(FROM),$(TO)),,$(error usage: make backfill SOURCE=klaviyo FROM=2026-01-01 TO=2026-01-31))
	@$(STACK) backfill $(SOURCE) $(FROM) $(TO)

.PHONY: migrate
migrate: install ## Bring the warehouse's schema up to date
	@$(STACK) migrate

.PHONY: airflow
airflow: install ## Run an airflow command: ARGS="dags test platform_etl__klaviyo 2026-01-15"
	@$(if $(ARGS),,$(error usage: make airflow ARGS="dags list"))
	@$(STACK) airflow -- $(ARGS)

.PHONY: sandbox
sandbox: install ## Start the vendor sandbox alone: ARGS="--port 8099 --faults none"
	@$(PYTHON_IN) -m sandbox $(ARGS)

##@ Work on it

.PHONY: test
test: install ## Lint and run all tests on a throw-away Postgres, with the time of each level
	@$(PYTHON_IN) -m stack.levels

.PHONY: lint
lint: install ## Style, types, import rules, SQL
	@$(PYTHON_IN) -m stack.levels lint

.PHONY: test-browser
test-browser: install ## Use the UI in a real Chromium
	@$(PYTHON_IN) -m stack.levels browser

.PHONY: test-compose
test-compose: install ## Run every command of docker-compose.yaml without containers (needs redis-server)
	@$(PYTHON_IN) -m stack.levels compose

.PHONY: test-contracts
test-contracts: install ## Check sandbox and requests against the vendors' contracts: CONTRACTS=folder
	@$(if $(CONTRACTS),,$(error usage: make test-contracts CONTRACTS=folder))
	@$(PYTHON_IN) -m stack.levels contracts

.PHONY: bench
bench: install ## Measure against baselines: the platform ETL, or WHAT=apps, mutants, nivoda, queue_latency, ...
	@$(PYTHON_IN) -m bench$(if $(WHAT),.$(WHAT)) $(ARGS)

.PHONY: soak
soak: install ## Kill workers and Postgres at random and compare: ARGS="--kills 100", WHAT=calendar, nivoda, notifications
	@$(PYTHON_IN) -m bench.soak$(if $(WHAT),_$(WHAT)) $(ARGS)

.PHONY: source
source: install ## Write the skeleton of a new source: NAME=tiktok_ads TITLE="TikTok Ads" (docs/adding_a_source.md)
	@$(if $(NAME),,$(error usage: make source NAME=tiktok_ads [TITLE="TikTok Ads"]))
	@$(PYTHON_IN) -m stack.new_source $(NAME)$(if $(TITLE), --title "$(TITLE)")

.PHONY: docs
docs: install ## Write docs/DAGS.md from the DAGs
	@$(PYTHON_IN) -m penstock.dag_docs

.PHONY: lock
lock: install ## Resolve requirements.in into requirements.txt, every version pinned
	@$(PYTHON_IN) -m uv pip compile --quiet --universal --python-version 3.11 $(ARGS) requirements.in --output-file requirements.txt

.PHONY: install
install: ## Make the Python environment (every command does)
	@stack/install.sh $(VENV)

.PHONY: reset
reset: install ## Delete all state: the embedded warehouse, Airflow's database, keys, logs
	@$(STACK) reset

.PHONY: clean
clean: ## Delete the Python environment and caches; the state in .penstock/ stays
	@rm -rf $(VENV) $(VENV).lock *.egg-info build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
