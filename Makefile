# Everything that a developer or CI runs. `make run` is all that a first look needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := setup.py gateway/records/_native.c gateway/network/_draining.c gateway/network/_sessions.c gateway/network/_openssl.h

.DEFAULT_GOAL := help
.PHONY: help install install-dev run demo demo-cluster test lint format lock package docs pictures bench-quick bench bench-pair bench-tiering bench-transactions bench-records soak ecosystem clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Install Penstock into .venv, in the versions that were tested

install-dev: $(VENV)/.installed-dev ## Install what lint, tests and benchmarks need as well

run: install ## Start the gateway on localhost:9092, data under ./data
	@exec $(BIN)/penstock serve

demo: ## Watch segments split and merge, and data move to MinIO and back, for a minute; WORKERS=N by N processes, SECURED=1 by TLS and ACLs
	@exec scripts/demo $(if $(WORKERS),--workers $(WORKERS)) $(if $(SECURED),--secured)

demo-cluster: ## Watch three nodes, one of which is killed and comes back, and what clients see of it; SECURED=1 by TLS and ACLs
	@exec scripts/demo cluster $(if $(SECURED),--secured)

test: ## Install what the tests need, then run every suite
	@scripts/test

lint: install-dev ## ruff, mypy --strict, import contracts
	@scripts/lint

format: install-dev ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Resolve the dependencies of pyproject.toml anew
	@scripts/lock

package: install-dev ## Make dist/ with sdist and wheel, checked as a package index checks them
	@scripts/package

docs: install-dev ## Build the documents as a site, in build/site
	@scripts/docs

pictures: install-dev ## Take the documents' pictures of the console again, with Chromium
	$(BIN)/python -m tests.gateway.http.pictures

bench-quick: install-dev ## Measure in minutes; BASELINE=FILE measures that server too
	$(BIN)/python -m bench.quick $(if $(BASELINE),--baseline $(BASELINE))

bench: install-dev ## Compare with Apache Kafka and Pravega, 40 minutes; ARGS="--only single --rounds 1" a part
	$(BIN)/python -m bench.compare $(ARGS)

bench-pair: install-dev ## Compare two checkouts, A=DIRECTORY with B=DIRECTORY, to a few per cent; ARGS="--only single"
	$(BIN)/python -m bench.paired $(A) $(or $(B),.) $(ARGS)

bench-tiering: install-dev ## Measure long-term storage, with a MinIO beside
	@scripts/install-minio >/dev/null
	$(BIN)/python -m bench.tiering
	$(BIN)/python -m bench.catch_up
	$(BIN)/python -m bench.log_objects

bench-transactions: install-dev ## Measure what transactions cost
	$(BIN)/python -m bench.transactions

bench-records: install-dev ## Measure what looking at every record costs
	$(BIN)/python -m bench.records

soak: install-dev ## The fault suites, for hours instead of minutes; SOAK_SECONDS=N for the histories of transactions
	$(BIN)/python -m tests.gateway.records.agreement --seconds 600
	BATCHES=20000 scripts/check-native
	! command -v valgrind >/dev/null || BATCHES=500 scripts/check-native valgrind
	SOAK=1 $(BIN)/pytest tests/faults tests/core/log/objects tests/gateway/transactions/test_machine.py compat_tests/test_franz_go.py compat_tests/test_streams_groups.py compat_tests/test_quotas.py compat_tests/test_our_tools.py
	scripts/install-test-tools --ecosystem
	SOAK=1 $(BIN)/pytest compat_tests/test_ecosystem.py
	SOAK_SECONDS=$(or $(SOAK_SECONDS),3600) $(BIN)/pytest compat_tests/test_histories.py

ecosystem: install-dev ## Run others' software against Penstock, some 15 minutes, and write docs/operating/compatibility.md
	@scripts/install-test-tools --ecosystem
	$(BIN)/python -m compat_tests.ecosystem $(ARGS)

clean: ## Remove what was installed and built; data stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache compat_tests/node/node_modules compat_tests/java/target compat_tests/ecosystem/*/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml $(NATIVE) scripts/install
	@scripts/install "$(PYTHON)" requirements.lock
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml $(NATIVE) scripts/install
	@scripts/install "$(PYTHON)" requirements-dev.lock
	@touch $(VENV)/.installed $@
