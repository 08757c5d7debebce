# Commands for developers; `make` lists them.
SHELL := /bin/bash
HELPER ?= target/prewarmer-helper
HELPER_FLAGS := --edition 2024 -C opt-level=z -C lto=fat -C codegen-units=1 -C link-arg=-Wl,-z,pack-relative-relocs -C target-feature=+crt-static -C panic=abort -C strip=symbols
CLUSTER_PROGRAM := tests/cluster/cluster
TEST_CLUSTER := --fake-nodes 120 --real-nodes 2

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

.PHONY: demo
# Only from the command line, so that a variable of the environment does not select a cluster.
demo: ## show how Prewarmer warms nodes, on a real Kubernetes on this machine; make demo CLUSTER=current uses the kubeconfig's cluster
	@bash tests/demo/run.sh $(if $(filter command line,$(origin CLUSTER)),'$(CLUSTER)')

.PHONY: test
test: ## run all tests, on a real Kubernetes (the first run builds it); make test SUITES="unit e2e" runs some of them
	@bash tests/run.sh $(SUITES)

.PHONY: scale
scale: ## measure how the cost grows with nodes, workloads, tasks and watchers, about an hour on 2 cores; make scale SCALE=small in a short form
	@bash tests/measure/run.sh $(if $(SCALE),--scale $(SCALE)) scale

.PHONY: test-long
test-long: ## run the measurements and the long forms of tests, and write the tables of docs/measurements.md, about five hours on 2 cores; make test-long SECTIONS="engine memory" runs some of them, SCALE=small all in a short form
	@bash tests/measure/run.sh $(if $(SCALE),--scale $(SCALE)) $(SECTIONS)

.PHONY: effect
effect: ## measure what Prewarmer is worth for pods on simulated nodes, and write docs/effect.md, about 11 hours; SCALE=small in a short form, TRACES="..." POLICIES="..." some of it
	@bash tests/effect/run.sh $(if $(SCALE),--scale $(SCALE)) $(if $(TRACES),--traces "$(TRACES)") $(if $(POLICIES),--policies "$(POLICIES)")

.PHONY: build
build: helper ## build the server (release) and the helper
	cargo build --release --locked --bin prewarmer

.PHONY: helper
helper: ## build the static helper
	rustc $(HELPER_FLAGS) -o $(HELPER) crates/helper/src/main.rs

.PHONY: images
images: ## build the images of the server and the helper into target/images, without a container engine (deploy/images.sh --help)
	deploy/images.sh --sbom target/images

.PHONY: plugin
plugin: ## build the archives of the kubectl plugin and its krew manifest into target/plugin (deploy/plugin.sh --help)
	deploy/plugin.sh target/plugin

.PHONY: generate
generate: ## write the generated files: deploy/crds.yaml, deploy/openapi.json, deploy/prewarmer.yaml, the schema of the chart's settings, docs/settings.md, the types of the Go SDK, the synchronous client of the Python SDK
	@bash deploy/generate.sh

.PHONY: check-generated
check-generated: ## fail if a generated file is not current
	@bash deploy/generate.sh --check

.PHONY: check
check: ## check formatting and clippy, and run the unit tests (no cluster)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(MAKE) -s test-unit

.PHONY: fmt
fmt: ## format the Rust code
	cargo fmt --all

.PHONY: lint
lint: ## check formatting and clippy, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test-unit
test-unit: ## run the unit tests, the fuzz corpus and the tests of the documentation (no cluster)
	cargo test --locked --workspace --lib --bins --test docs --test crates --test allocations --test audit --test extract --test fuzz_corpus

.PHONY: test-e2e
test-e2e: ## run the end-to-end tests on a separate cluster: make test-e2e TEST=name (default: all)
	cargo build --locked --workspace --bins
	$(CLUSTER_PROGRAM) with $(TEST_CLUSTER) -- cargo test --locked --test e2e -- $(TEST)

.PHONY: dev
dev: ## run a server against a test cluster, rebuilt on change; prints its URL and a token (Ctrl-C stops it)
	@bash tests/dev.sh

.PHONY: dev-stop
dev-stop: ## stop the cluster of make dev
	@bash tests/dev.sh --stop

.PHONY: check-scripts
check-scripts: ## check shell scripts with shellcheck and workflows with actionlint
	@bash tests/scripts.sh

.PHONY: check-structure
check-structure: ## print figures of the structure of the code; fails if files import each other in a cycle, or if a mutant does not fit the code
	@python3 tests/structure.py
	@python3 tests/mutants/run.py --check

.PHONY: check-spelling
check-spelling: ## check the spelling of all committed files with typos
	@bash tests/spelling.sh

.PHONY: deny
deny: ## check licences, bans and sources of dependencies
	@bash tests/deny.sh

.PHONY: advisories
advisories: ## check dependencies for known vulnerabilities; reports NOT RUN if a database cannot be reached
	@bash tests/advisories.sh

.PHONY: check-msrv
check-msrv: ## compile with the oldest supported Rust, which rustup must have installed
	@bash tests/msrv.sh --build

.PHONY: clean
clean: ## remove build results
	cargo clean
