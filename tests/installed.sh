#!/usr/bin/env bash
# Tests the chart on a separate cluster: builds the images, pushes them, and runs the test that
# installs the chart, the demo on an existing cluster, and the commands of the documentation. Run by
# `tests/cluster/cluster with`, which sets the environment of the cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
if [[ $REAL_NODES == 0 ]]; then
  not_run "installation_lifecycle, demo on an existing cluster, commands of the documentation" "this cluster has no real node: $REAL_NODES_REASON"
  exit
fi
deploy/images.sh --profile "${PREWARMER_TEST_PROFILE:-quick}" --push "$REGISTRY" "$CLUSTER_DIR/images"
cargo build --locked --workspace --bins
cargo test --locked --test e2e -- --ignored --exact installed::installation_lifecycle --show-output
tests/demo/check.sh
tests/pages.sh
