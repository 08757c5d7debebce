#!/usr/bin/env bash
# Measures the bytes of the first visit of a task's page, with a finished task on all fake nodes.
# Run with the environment of a cluster.
# usage: pages.sh NODES
set -euo pipefail
cd "$(dirname "$0")/../.."
nodes=$1
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh
record size "$nodes"
serve
task shown Pod 1 100
token=$(read_token)
python3 tests/measure/page_weight.py "https://127.0.0.1:$((port + 2))" "$work/ca.pem" "$token" default/shown |
  while IFS=$'\t' read -ra fields; do record resource "${fields[@]}"; done
show_server_log
