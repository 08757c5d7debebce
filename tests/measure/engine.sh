#!/usr/bin/env bash
# Measures tasks of the server, and the baseline (benches/floor.rs), which creates, awaits and
# deletes the same workers by the same pull method. They alternate in one run, ROUNDS times each,
# with Jobs and with bare pods. Run with the environment of a cluster.
# usage: engine.sh NODES IMAGES BATCH [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
nodes=$1 images=$2 batch=$3 rounds=${4:-3}
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh

baseline() { # baseline KIND
  local before took
  before=$(writes)
  took=$(target/release/examples/floor "$1" ImageVolume "$nodes" "$images" "$batch")
  sleep 3
  record run baseline "$1" "$took" "$(($(writes) - before))"
}

record size "$nodes" "$images" "$batch"
serve
for kind in Job Pod; do
  for ((round = 1; round <= rounds; round++)); do
    baseline "$kind"
    task "measure-$(tr '[:upper:]' '[:lower:]' <<< "$kind")-$round" "$kind" "$images" "$batch"
  done
done
show_server_log
