#!/usr/bin/env bash
# The chart in a cluster of its own: builds our images, pushes them, and runs the test that installs them.
# Run by tests/cluster/cluster with, which says where the cluster is.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $REAL_NODES == 0 ]]; then
  echo "NOT RUN: the_life_of_an_installation: this cluster has no real node: $REAL_NODES_REASON"
  exit
fi
deploy/images.sh --profile quick --push "$REGISTRY" "$CLUSTER_DIR/images"
cargo test --locked --test e2e -- --ignored --exact installed::the_life_of_an_installation --show-output
