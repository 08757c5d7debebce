#!/usr/bin/env bash
# make test-long: the measurements of docs/measurements.md, and the long forms of the tests that have one. Figures are
# printed, and decide nothing; the tests do.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "test-long: $*"; }
with() { local nodes=$1; shift; tests/cluster/cluster with --fake-nodes "$nodes" -- "$@"; }
say "building, release and debug"
cargo build --release --locked --bin prewarmer --example load --example floor --example allocations
cargo test --locked --no-run
(cd benches/peer && go build -o ../../target/peer .)
say "the pure parts"
cargo bench --locked --bench engine
say "the webhook, and a task"
with 100 bash tests/measure-in-cluster.sh 10 target/peer
say "1,000 nodes, beside the floor"
with 1000 bash tests/measure-engine.sh 1000 10 100 "Job Pod"
say "5,000 nodes"
with 5000 bash tests/measure-engine.sh 5000 20 100 "Pod Job" --no-floor
say "certificates, replicas and crowds"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_ROTATION_SECONDS=60 PREWARMER_TEST_CROWD=500 \
  cargo test --locked --test e2e -- never_in_the_way --nocapture
say "REST: 10,000 finished tasks, 1,000 watchers, ticks and killed leaders, schemathesis at length"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_TASKS=10000 \
  cargo test --locked --test e2e -- many_finished_tasks --nocapture
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_WATCHERS=1000 \
  cargo test --locked --test e2e -- a_crowd_watches_one_task --nocapture
PREWARMER_TEST_TICKS=10 PREWARMER_TEST_EXAMPLES=400 \
  cargo test --locked --test e2e -- each_tick_runs_once the_document_is_true --nocapture
say "the core tests on Kubernetes 1.35, and the chart installed there"
PREWARMER_CLUSTER_KUBE=1.35 tests/cluster/cluster with --fake-nodes 120 --real-nodes 2 -- \
  cargo test --locked --test e2e -- walk:: engine:: admission:: real_node:: reasons:: chart::
PREWARMER_CLUSTER_KUBE=1.35 tests/cluster/cluster with --fake-nodes 40 --real-nodes 2 -- tests/installed.sh
say "the images: release, twice, and the same digests"
bash tests/reproducible.sh release
say "10,000 pods that start"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_STARTS=10000 \
  cargo test --locked --test e2e -- starts_are_counted --nocapture
say "fuzzing"
bash tests/fuzz/run.sh "${PREWARMER_TEST_FUZZ:-10000000}"
say "the model of a task, at length"
PROPTEST_CASES=${PREWARMER_TEST_CASES:-100000} cargo test --locked --lib whatever_happens
say "servers, leaders and API servers that die"
with 200 env PREWARMER_TEST_NODES=200 PREWARMER_TEST_KILLS="${PREWARMER_TEST_KILLS:-100}" PREWARMER_TEST_CRASHES=10 \
  PREWARMER_TEST_TAKEOVERS=10 cargo test --locked --test e2e -- chaos --nocapture --test-threads 1
say "a hostile tenant, for five minutes"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_ATTACK_SECONDS=300 \
  cargo test --locked --test e2e -- a_hostile_tenant --nocapture
say "an API server that throttles, fails, is slow, cuts watches and serves stale lists, for five minutes"
with 200 env PREWARMER_TEST_PROGRAM="$PWD/target/release/prewarmer" PREWARMER_TEST_FAULT_SECONDS=300 \
  cargo test --locked --test e2e -- a_disturbed_api_server --nocapture
say "an hour's soak"
with 60 env PREWARMER_TEST_PROGRAM="$PWD/target/release/prewarmer" PREWARMER_TEST_SOAK_SECONDS=3600 \
  cargo test --locked --test e2e -- what_is_held_stays_flat --nocapture
say "all done"
