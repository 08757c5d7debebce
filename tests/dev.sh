#!/usr/bin/env bash
# Runs a development server against a test cluster: starts the cluster if it is not running, applies
# the CRDs, prints the URL and a token, and rebuilds and restarts the server when a source file
# changes. Ctrl-C stops the server; the cluster keeps running.
# usage: tests/dev.sh [--stop]     --stop stops the cluster
#   PREWARMER_DEV_DIR        directory of the cluster's state (default: target/dev)
#   PREWARMER_DEV_FAKE_NODES number of fake nodes of a new cluster (default: 20)
#   PREWARMER_DEV_REAL_NODES number of real nodes of a new cluster (default: 0)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
require_linux dev
mkdir -p "${PREWARMER_DEV_DIR:-target/dev}"
dir=$(cd "${PREWARMER_DEV_DIR:-target/dev}" && pwd)
cluster=$dir/cluster
say() { echo "dev: $*"; }
if [[ ${1:-} == --stop ]]; then
  exec tests/cluster/cluster stop "$cluster" --purge
fi
server=''
stop_server() {
  [[ -z $server ]] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
  server=''
}
finish() {
  local code=$?
  trap - EXIT INT TERM
  stop_server
  say "server stopped; the cluster is still up (stop it with: make dev-stop)"
  exit "$code"
}
build() { cargo build --locked --bin prewarmer; }
build
if ! tests/cluster/cluster status "$cluster" > /dev/null 2>&1; then
  rm -rf "$cluster"
  tests/cluster/cluster start "$cluster" --fake-nodes "${PREWARMER_DEV_FAKE_NODES:-20}" --real-nodes "${PREWARMER_DEV_REAL_NODES:-0}"
fi
trap finish EXIT
trap 'exit 130' INT TERM
# shellcheck source=/dev/null
. "$cluster/env"
k() { "$KUBECTL" "$@"; }
program=${CARGO_TARGET_DIR:-target}/debug/prewarmer
port=$((${APISERVER_URL##*:} + 4)) # +4 to +6 are free in the port range of the cluster

start_server() {
  "$program" crds | k apply --server-side --force-conflicts -f - > /dev/null
  k wait --for=condition=Established crd/prewarmtasks.prewarm.io crd/prewarmplans.prewarm.io crd/prewarmschedules.prewarm.io --timeout=30s > /dev/null
  # Plain HTTP on loopback, so that the page and curl need no CA.
  "$program" serve --api-addr "127.0.0.1:$((port + 2))" --api-tls=false --webhook-addr "127.0.0.1:$port" \
    --webhook-url "https://127.0.0.1:$port" --health-addr "127.0.0.1:$((port + 1))" --worker-image registry.example/helper:1 &
  server=$!
  for _ in $(seq 150); do
    curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && return
    kill -0 "$server" 2> /dev/null || { server=''; say "the server exited; waiting for a change"; return; }
    sleep 0.2
  done
  say "the server is not ready after 30 s; see its log above"
}
k get namespace prewarmer > /dev/null 2>&1 || k create namespace prewarmer > /dev/null
start_server
"$program" token create dev --namespaces '*' --nodes 2> "$dir/token.txt" |
  k apply --server-side --force-conflicts --field-manager=prewarmer-token-dev -f - > /dev/null
token=$(grep -o 'prw_[A-Za-z0-9_-]*' "$dir/token.txt" | head -n 1)
rm -f "$dir/token.txt"
say "page     http://127.0.0.1:$((port + 2))/ui"
say "API      http://127.0.0.1:$((port + 2))/api/v1"
say "health   http://127.0.0.1:$((port + 1))/readyz, /metrics"
say "token    $token"
say "kubectl  $KUBECTL --kubeconfig $KUBECONFIG"
say "watching src, crates, Cargo.toml and Cargo.lock; Ctrl-C stops the server"
marker=$dir/built
touch "$marker"
while :; do
  sleep 1
  [[ -n $(find src crates Cargo.toml Cargo.lock -newer "$marker" -type f -print -quit 2> /dev/null) ]] || continue
  touch "$marker"
  say "rebuilding"
  if build; then
    stop_server
    start_server
    say "restarted"
  else
    say "the build failed; the previous server keeps running"
  fi
done
