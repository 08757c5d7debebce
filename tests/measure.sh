#!/usr/bin/env bash
# make test-long: runs the measurements of docs/measurements.md, and the long variants of tests.
# Figures are printed only; the result depends on the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "test-long: $*"; }
with() { local nodes=$1; shift; tests/cluster/cluster with --fake-nodes "$nodes" -- "$@"; }
say "building, release and debug"
cargo build --release --locked --bin prewarmer --example load --example floor --example allocations
cargo test --locked --no-run
(cd benches/peer && go build -o ../../target/peer .)
say "benchmarks of the engine"
cargo bench --locked --bench engine
say "throughput of the webhook, and one task"
with 100 bash tests/measure-in-cluster.sh 10 target/peer
say "1,000 nodes, compared with the baseline"
with 1000 bash tests/measure-engine.sh 1000 10 100 "Job Pod"
say "5,000 nodes"
with 5000 bash tests/measure-engine.sh 5000 20 100 "Pod Job" --no-floor
say "certificate rotation, replicas and many clients"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_ROTATION_SECONDS=60 PREWARMER_TEST_CROWD=500 \
  cargo test --locked --test e2e -- admission_stays_available --nocapture
say "REST: 10,000 finished tasks, 1,000 watchers, schedules with killed leaders, schemathesis with more examples"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_TASKS=10000 \
  cargo test --locked --test e2e -- lists_of_many_finished_tasks --nocapture
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_WATCHERS=1000 \
  cargo test --locked --test e2e -- many_watchers_of_one_task --nocapture
PREWARMER_TEST_TICKS=10 PREWARMER_TEST_EXAMPLES=400 \
  cargo test --locked --test e2e -- each_scheduled_time_runs_once api_conforms_to_openapi --nocapture
say "the core tests and the installation of the chart on Kubernetes 1.35"
PREWARMER_CLUSTER_KUBE=1.35 tests/cluster/cluster with --fake-nodes 120 --real-nodes 2 -- \
  cargo test --locked --test e2e -- smoke:: engine:: admission:: real_node:: failure_reasons:: chart::
PREWARMER_CLUSTER_KUBE=1.35 tests/cluster/cluster with --fake-nodes 40 --real-nodes 2 -- tests/installed.sh
say "reproducible images, profile release"
bash tests/reproducible.sh release
say "10,000 pod starts"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_STARTS=10000 \
  cargo test --locked --test e2e -- pod_starts_and_saved_time --nocapture
say "fuzzing"
bash tests/fuzz/run.sh "${PREWARMER_TEST_FUZZ:-10000000}"
say "property tests of the task model"
PROPTEST_CASES=${PREWARMER_TEST_CASES:-100000} cargo test --locked -p prewarmer-core --lib whatever_happens
say "killed servers, leaders and API servers"
with 200 env PREWARMER_TEST_NODES=200 PREWARMER_TEST_KILLS="${PREWARMER_TEST_KILLS:-100}" PREWARMER_TEST_CRASHES=10 \
  PREWARMER_TEST_TAKEOVERS=10 cargo test --locked --test e2e -- chaos --nocapture --test-threads 1
say "a hostile tenant, for five minutes"
PREWARMER_TEST_PROGRAM=$PWD/target/release/prewarmer PREWARMER_TEST_ATTACK_SECONDS=300 \
  cargo test --locked --test e2e -- hostile_tenant --nocapture
say "an API server that throttles, fails, is slow, closes watches and serves stale lists, for five minutes"
with 200 env PREWARMER_TEST_PROGRAM="$PWD/target/release/prewarmer" PREWARMER_TEST_FAULT_SECONDS=300 \
  cargo test --locked --test e2e -- apiserver_faults --nocapture
say "soak test of one hour"
with 60 env PREWARMER_TEST_PROGRAM="$PWD/target/release/prewarmer" PREWARMER_TEST_SOAK_SECONDS=3600 \
  cargo test --locked --test e2e -- resource_usage_stays_flat --nocapture
say "completed"
