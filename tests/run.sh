#!/usr/bin/env bash
# make test: runs all tests on real clusters.
set -euo pipefail
cd "$(dirname "$0")/.."
begun=$SECONDS
say() { echo "test: $*"; }
for tool in cargo rustc go openssl; do
  command -v "$tool" > /dev/null || { say "$tool is required, but is not on the PATH"; exit 1; }
done
say "building the programs of the test cluster, if they are not built yet"
tests/cluster/cluster build > /dev/null
say "building the tests"
cargo build --locked --workspace --all-targets
# Tests that need a cluster mostly wait for it. Two threads per processor keep the machine busy: on
# 2 cores all of tests/e2e takes 384 s, and 664 s with one thread per processor.
export RUST_TEST_THREADS=$((2 * $(nproc)))
# Joined by &&, because set -e does not apply within the condition of `if`.
run() {
  bash tests/prometheus/rules.sh &&
  tests/cluster/cluster with --fake-nodes 120 --real-nodes 2 -- cargo test --locked --workspace -- --show-output --skip hostile:: --skip large_and_slow_reviews &&
  say "tests that assert latency, without other tests: large reviews, and a hostile tenant on a separate cluster" &&
  tests/cluster/cluster with --fake-nodes 10 -- cargo test --locked --test e2e -- --show-output large_and_slow_reviews &&
  cargo test --locked --test e2e -- --show-output hostile:: &&
  say "the chart, installed into a separate cluster" &&
  tests/cluster/cluster with --fake-nodes 40 --real-nodes 2 -- tests/installed.sh &&
  say "the kubectl plugin, packed and installed with krew" &&
  tests/cluster/cluster with --fake-nodes 5 -- tests/plugin.sh &&
  say "the SDKs, the web pages and the examples, against a server" &&
  tests/cluster/cluster with --fake-nodes 120 -- tests/clients.sh
}
# A copy for the summary. The output itself goes to the standard output of this script: opening
# /dev/stderr would truncate a log file.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
if run 2>&1 | tee "$output"; then
  not_run=$(grep '^NOT RUN' "$output" | sort -u || true)
  if [ -n "$not_run" ]; then say "not run on this machine:"; echo "$not_run"; fi
  say "all passed, in $((SECONDS - begun)) s"
else
  say "FAILED, after $((SECONDS - begun)) s: see above"
  exit 1
fi
