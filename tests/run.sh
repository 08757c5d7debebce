#!/usr/bin/env bash
# make test: all tests, on one real cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
begun=$SECONDS
say() { echo "test: $*"; }
for tool in cargo rustc go openssl; do
  command -v "$tool" > /dev/null || { say "$tool is needed, and is not on the PATH"; exit 1; }
done
say "building the programs of the test cluster, where they are not built yet"
tests/cluster/cluster build > /dev/null
say "building the tests"
cargo build --locked --all-targets
# Tests that need a cluster mostly wait for it: two for each processor keep the machine busy, and not more than that (384 s
# for the whole of tests/e2e on 2 cores, and 664 s with one for each).
export RUST_TEST_THREADS=$((2 * $(nproc)))
# One after another, until one fails: set -e does not reach into a condition.
run() {
  bash tests/prometheus/rules.sh &&
  tests/cluster/cluster with --fake-nodes 120 --real-nodes 2 -- cargo test --locked -- --show-output --skip hostile:: --skip large_and_slow_reviews &&
  say "tests that bound latency, run alone: large reviews, and a hostile tenant on a cluster of its own" &&
  tests/cluster/cluster with --fake-nodes 10 -- cargo test --locked --test e2e -- --show-output large_and_slow_reviews &&
  cargo test --locked --test e2e -- --show-output hostile:: &&
  say "the chart, installed into a cluster of its own" &&
  tests/cluster/cluster with --fake-nodes 40 --real-nodes 2 -- tests/installed.sh &&
  say "kubectl's plugin, packed and installed by krew" &&
  tests/cluster/cluster with --fake-nodes 5 -- tests/plugin.sh &&
  say "the SDKs, the pages and the examples, against a server" &&
  tests/cluster/cluster with --fake-nodes 120 -- tests/clients.sh
}
if output=$(run 2>&1 | tee /dev/stderr); then
  not_run=$(grep '^NOT RUN' <<< "$output" | sort -u || true)
  if [ -n "$not_run" ]; then say "this machine could not run:"; echo "$not_run"; fi
  say "all passed, in $((SECONDS - begun)) s"
else
  say "FAILED, after $((SECONDS - begun)) s: see above"
  exit 1
fi
