# `make` without a target prints the list of targets.
.DEFAULT_GOAL := help
.PHONY: help demo bench chaos check-deploy lint docs mutants run test-long test test-browser test-retry-delays test-proxies test-cluster test-upgrade test-versions test-newest check format status send psql screenshots lock clean bootstrap

PYTHON := .venv/bin/python
ARGS ?=
PYTEST_ARGS ?=
# All tests, in two processes, each with its own services: most tests wait most of the time.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile
COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11
LOCK := $(COMPILE) pyproject.toml

help:  ## this list of targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

run: bootstrap  ## RabbitMQ, Postgres and the whole product on this machine, until Ctrl-C
	@exec $(PYTHON) -m deploy.local run

demo: bootstrap  ## a buyback order until its payment, and a part that is sold and returned, with simulated marketplaces
	@exec $(PYTHON) -m deploy.local demo

test: bootstrap  ## every test except the slow ones (PYTEST_ARGS="-k orders" selects some)
	@exec $(PYTHON) -m pytest $(or $(PYTEST_ARGS),$(SIDE_BY_SIDE))

test-browser: bootstrap  ## the console in Chromium, which `make test` includes
	@exec $(PYTHON) -m pytest -m browser $(PYTEST_ARGS)

test-retry-delays: bootstrap  ## the retry delays in real time: 7 s, 35 s, 175 s
	@exec $(PYTHON) -m pytest -m retry_delays $(PYTEST_ARGS)

test-proxies: bootstrap  ## each proxy of deploy/gateways in front of the ingest, ingests killed, request smuggling
	@exec $(PYTHON) -m pytest -m proxies $(PYTEST_ARGS)

test-cluster: bootstrap  ## short runs on three brokers and on a Postgres pair, with failovers
	@exec $(PYTHON) -m pytest -m cluster $(PYTEST_ARGS)

test-long: bootstrap  ## an hour's outage in the spool, a hundred graceful stops, a cluster's nodes killed
	@exec $(PYTHON) -m pytest -m long -s $(PYTEST_ARGS)

test-versions: bootstrap  ## as root: every test on Debian 12, 13 and testing (ARGS="--suites trixie", ARGS=--help)
	@exec $(PYTHON) -m tests.versions $(ARGS)

test-newest: bootstrap  ## as root: the tests that depend on the versions of RabbitMQ and Postgres, on Debian testing
	@exec $(PYTHON) -m tests.versions --suites forky --subset $(ARGS)

test-upgrade: bootstrap  ## upgrade from the commits in tests/upgrade and roll back, under load (RATE=100)
	@RATE=$(or $(RATE),100) exec $(PYTHON) -m pytest -m upgrade -s $(PYTEST_ARGS)

chaos: bootstrap  ## random faults under load (SEED=7 MINUTES=10 CLUSTER=3), then the audit and a comparison with a model
	@exec $(PYTHON) -m tests.chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5) --cluster $(or $(CLUSTER),1) $(ARGS)

bench: bootstrap  ## measure the product and its alternatives (ARGS="--only drain --rounds 5")
	@deploy/local/bootstrap bench
	@exec $(PYTHON) -m tests.bench $(ARGS)

lint: bootstrap  ## format, lint, types, import contracts, collection of all tests
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@# The processes of `make test` must collect the same tests, for any hash seed.
	@for seed in 1 2; do \
		PYTHONHASHSEED=$$seed $(PYTHON) -m pytest --collect-only -q >.dev/collected || { cat .dev/collected; exit 1; }; \
		grep :: .dev/collected >.dev/collected.$$seed; \
	done
	@cmp .dev/collected.1 .dev/collected.2

check: lint  ## `make lint`, the unit tests and the tests of the documents
	@$(PYTHON) -m pytest -q tests/unit tests/docs tests/harness/test_mutants.py tests/harness/test_bench.py

check-deploy: bootstrap  ## check deploy/: image, Compose, Kubernetes, systemd, RabbitMQ, Prometheus, Grafana
	@deploy/local/bootstrap deploy
	@exec $(PYTHON) -m pytest tests/deploy -m "not retry_delays and not long" $(PYTEST_ARGS)

format: bootstrap  ## format the code
	@$(PYTHON) -m ruff check --quiet --fix-only .
	@$(PYTHON) -m ruff format --quiet .

status: bootstrap  ## show queues, dead letters and rows of the system that `make run` started
	@test -f .dev/env || { echo "nothing is running here yet: start it with \`make run\`" >&2; exit 1; }
	@. .dev/env; exec .venv/bin/stockhook status $(ARGS)

send: bootstrap  ## send events to the system that `make run` started (ARGS="--documented")
	@test -f .dev/env || { echo "nothing is running here yet: start it with \`make run\`" >&2; exit 1; }
	@. .dev/env; exec .venv/bin/stockhook send $(ARGS)

docs: bootstrap  ## write the generated files: docs/reference/, and those of families and permissions in deploy/, benchmarks
	@$(PYTHON) -m deploy.documents
	@$(PYTHON) -m tests.bench.page
	@STOCKHOOK_AMQP_URL=amqp://localhost/stockhook .venv/bin/stockhook topology --definitions >deploy/rabbitmq/topology.json
	@.venv/bin/stockhook grants rabbitmq --json >deploy/rabbitmq/permissions.json
	@.venv/bin/stockhook grants postgres >deploy/postgres/roles.sql

mutants: bootstrap  ## plant known bugs in a copy, one by one; a test must fail for each
	@exec $(PYTHON) -m tests.mutants $(ARGS)

psql: bootstrap  ## open psql on the database of `make run`
	@if [ -f .dev/env ]; then . .dev/env; fi; exec $(PYTHON) -m deploy.local psql $(ARGS)

screenshots: bootstrap  ## take the pictures of the console in docs/images, in Chromium
	@exec $(PYTHON) -m tests.screenshots

lock:  ## write the five requirements*.lock from pyproject.toml (needs uv)
	@$(LOCK) --extra console --extra otel -o requirements.lock
	@$(COMPILE) --group build -o requirements-build.lock
	@$(LOCK) --extra dev -c requirements.lock -c requirements-build.lock -o requirements-dev.lock
	@$(LOCK) --extra bench -c requirements.lock -o requirements-bench.lock
	@$(LOCK) --extra deploy -c requirements.lock -o requirements-deploy.lock

clean:  ## remove .venv, and .dev with all its data (not while `make run` is running)
	@if [ -d .dev ] && [ -x $(PYTHON) ]; then $(PYTHON) -m deploy.local clean; else rm -rf .dev; fi
	@rm -rf .venv

bootstrap:
	@deploy/local/bootstrap
