#!/usr/bin/env bash
# make test-long: the measurements of docs/measurements.md. Prints figures; decides nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --bin prewarmer --example load
exec tests/cluster/cluster with --fake-nodes 100 -- bash tests/measure-in-cluster.sh
