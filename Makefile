# Prewarmer's commands; `make` lists them.
SHELL := /bin/bash
HELPER ?= target/prewarmer-helper
HELPER_FLAGS := --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols
CLUSTER := tests/cluster/cluster
TEST_CLUSTER := --fake-nodes 120 --real-nodes 2

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: demo
demo: ## show the main job on a real Kubernetes, on this machine
	@bash tests/demo/run.sh

.PHONY: test
test: ## run every test, on a real Kubernetes (the first run builds it, about 7 minutes on 2 cores)
	@bash tests/run.sh

.PHONY: test-long
test-long: ## run the measurements and the long forms of the tests, about three and a half hours on 2 cores
	@bash tests/measure.sh

.PHONY: build
build: helper ## build the server (release) and the helper
	cargo build --release --locked --bin prewarmer

.PHONY: helper
helper: ## build the static helper
	rustc $(HELPER_FLAGS) -o $(HELPER) src/bin/helper.rs

.PHONY: images
images: ## build the images of the server and the helper into target/images, without a container engine (deploy/images.sh --help)
	deploy/images.sh --sbom target/images

.PHONY: plugin
plugin: ## build the archives of kubectl prewarm and the manifest for krew into target/plugin (deploy/plugin.sh --help)
	deploy/plugin.sh target/plugin

.PHONY: generate
generate: ## write what is generated: deploy/crds.yaml, deploy/openapi.json, deploy/prewarmer.yaml, the Go SDK's types
	@bash deploy/generate.sh

.PHONY: check-generated
check-generated: ## fail when a generated file is not current
	@bash deploy/generate.sh --check

.PHONY: lint
lint: ## check formatting and clippy, warnings as errors
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

.PHONY: deny
deny: ## check licences, bans and sources of dependencies
	@bash tests/deny.sh

.PHONY: advisories
advisories: ## check dependencies for known vulnerabilities; says NOT RUN where a database cannot be reached
	@bash tests/advisories.sh

.PHONY: clean
clean: ## remove what was built here
	cargo clean
