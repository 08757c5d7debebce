#!/usr/bin/env bash
# Tests the chart: builds the images, pushes them, and runs the test that installs the chart, then the
# demo on an existing cluster and the commands of the documentation. The parts have a cluster each,
# because the first kills a node.
# usage: installed.sh [PART]   (PART: lifecycle or documents; default: both, each on a new cluster)
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# == 0)); then
  for part in lifecycle documents; do
    tests/cluster/cluster with --fake-nodes 40 --real-nodes 2 -- tests/installed.sh "$part"
  done
  exit
fi
# shellcheck source=tests/environment.sh
. tests/environment.sh
declare -A contents=([lifecycle]="installation_lifecycle" [documents]="demo on an existing cluster, commands of the documentation")
[[ -n ${contents[$1]:-} ]] || { echo "installed: unknown part $1: expected ${!contents[*]}" >&2; exit 2; }
[[ -n ${REAL_NODES:-} ]] || { echo "installed: a part needs the environment of tests/cluster/cluster with; without a part, this script starts the clusters" >&2; exit 2; }
if [[ $REAL_NODES == 0 ]]; then
  not_run "${contents[$1]}" "this cluster has no real node: $REAL_NODES_REASON"
  exit
fi
deploy/images.sh --profile "${PREWARMER_TEST_PROFILE:-quick}" --push "$REGISTRY" "$CLUSTER_DIR/images"
cargo build --locked --workspace --bins
case $1 in
  lifecycle) cargo test --locked --test e2e -- --ignored --exact installed::installation_lifecycle --show-output ;;
  documents)
    tests/demo/check.sh
    tests/pages.sh
    ;;
esac
