# Everything is installed and runs below .atlas; nothing else of the machine is touched.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV := .atlas/venv/airflow/bin
ATLAS := $(VENV)/python -m local.launcher
# A test file is one worker's: its tests share what they start and may follow on each other.
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
export DAG CONF ARGS FAULTS

.DEFAULT_GOAL := help
.PHONY: help setup up demo run status logs down reset replay test test-full bench soak capabilities lint package deploy snapshots lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install everything into .atlas (Python 3.11 or 3.12; no Docker, no account)
	@$(or $(PYTHON),python3) -m local.launcher setup

up: setup  ## start the embedded AWS and Airflow (ports: ATLAS_AWS_PORT=4566 ATLAS_UI_PORT=8080)
	@$(ATLAS) up

demo: up  ## set up, start, run the finished scenarios, show their results
	@$(ATLAS) demo

run: up  ## run a scenario: make run DAG=s01_rds_sales_etl [CONF='{"source_uri": "./my-data"}'] [FAULTS=storm]
	@$(ATLAS) run

replay: | $(VENV)/python  ## quarantined records: make replay ARGS="list --prefix s05_ecommerce_redshift/quarantine/"
	@$(ATLAS) replay

status logs down reset: | $(VENV)/python
	@$(ATLAS) $@

status:  ## what runs, where, since when
logs:  ## the end of all logs, and what comes
down:  ## stop everything that was started
reset:  ## stop everything and forget every run

test: setup  ## all tests
	@$(VENV)/python -m pytest $(WORKERS)

test-full: setup  ## all tests with large loads
	@ATLAS_TEST_SIZE=full $(VENV)/python -m pytest $(WORKERS)

bench: setup  ## measure the scenarios and the embedded AWS (one part: ARGS=embedded)
	@PYTHONPATH=plugins $(VENV)/python -m local.bench $(ARGS)

soak: setup  ## scenarios in a storm of faults for SOAK_SECONDS=600: nothing lost, nothing leaked
	@PYTHONPATH=plugins $(VENV)/python -m local.soak

capabilities: setup  ## write the table of docs/embedded-aws.md from the conformance tests
	@$(VENV)/python -m local.capabilities

lint: setup  ## ruff, mypy, cfn-lint
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy .
	@for functions in include/lambdas/*/; do \
	  (cd $$functions && $(CURDIR)/$(VENV)/mypy --config-file $(CURDIR)/pyproject.toml .) || exit 1; done
	@$(VENV)/cfn-lint include/templates/*.yaml deploy/*.yaml

package: setup  ## build dist/ for Amazon MWAA and try it there as MWAA would (PYTHON312=/path/to/python3.12)
	@PYTHONPATH=plugins $(VENV)/python -m deploy.package $(ARGS)

deploy: setup  ## bring dist/ to Amazon MWAA: make deploy ENV=dev [ARGS="--dry-run"] (all: ARGS=-h)
	@PYTHONPATH=plugins $(VENV)/python -m deploy.mwaa $(or $(ENV),dev) $(ARGS)

snapshots: setup  ## record the DAGs' graphs for review
	@$(VENV)/python -m pytest tests/dags --update-snapshots

lock:  ## compile the lock files anew from *.in
	@$(or $(PYTHON),python3) -m local.launcher lock

$(VENV)/python:
	@echo "atlas: Atlas is not set up here: make setup" >&2; exit 1
