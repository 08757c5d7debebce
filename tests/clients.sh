#!/usr/bin/env bash
# Tests the SDKs, the web pages in a browser and the examples of the documentation against one
# server. Run by `tests/cluster/cluster with`, which sets the environment of the cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "clients: $*"; }
work=$(mktemp -d)
server=''
finish() {
  local code=$?
  trap - EXIT INT TERM
  [[ $code -eq 0 ]] || { say "FAILED; end of the server's log:"; tail -n 20 "$work/server.log" 2> /dev/null || true; }
  [[ -z $server ]] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

program=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)
k() { "$KUBECTL" "$@"; }
"$program/prewarmer" crds | k apply --server-side --force-conflicts -f - > /dev/null
k wait --for=condition=Established crd/prewarmtasks.prewarm.io crd/prewarmplans.prewarm.io crd/prewarmschedules.prewarm.io --timeout=30s > /dev/null
for name in prewarmer shop; do k create namespace "$name" > /dev/null; done
k annotate namespace shop prewarm.io/allow-all-nodes=true > /dev/null # for prewarm.io/nodes: all

port=$((${APISERVER_URL##*:} + 4)) # +4 to +6 are free in the port range of the cluster
"$program/prewarmer" serve --api-addr "127.0.0.1:$((port + 2))" --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" \
  --health-addr "127.0.0.1:$((port + 1))" --worker-image registry.example/helper:1 > "$work/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do
  curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && break
  kill -0 "$server" 2> /dev/null || { say "the server exited"; exit 1; }
  sleep 0.2
done

token() { # token NAME ARGUMENT...: creates an API token, and prints it
  local name=$1; shift
  "$program/prewarmer" token create "$name" "$@" 2> "$work/token.txt" |
    k apply --server-side --force-conflicts "--field-manager=prewarmer-token-$name" -f - > /dev/null
  grep -o 'prw_[A-Za-z0-9_-]*' "$work/token.txt"
}
PREWARMER_TOKEN=$(token ci --namespaces shop,prewarmer --nodes)
PREWARMER_READ_TOKEN=$(token reader --namespaces '*' --read-only)
k get validatingwebhookconfiguration prewarmer -o jsonpath='{.webhooks[0].clientConfig.caBundle}' | base64 -d > "$work/ca.crt"
export PREWARMER_TOKEN PREWARMER_READ_TOKEN PREWARMER_CA_FILE=$work/ca.crt PREWARMER_TEST_NAMESPACE=shop
export PREWARMER_URL=https://127.0.0.1:$((port + 2)) PREWARMER_NAMESPACE=shop
export PATH=$program:$PATH
# A token is accepted once the server's watch of the Secret has received it.
for _ in $(seq 50); do
  curl -fs --cacert "$PREWARMER_CA_FILE" -H "Authorization: Bearer $PREWARMER_READ_TOKEN" "$PREWARMER_URL/api/v1/stats" > /dev/null && break
  sleep 0.1
done

say "the Go SDK"
sdk/go/check.sh --live
say "the Python SDK"
sdk/python/check.sh --live
say "the examples of docs/clients.md"
tests/examples.sh
say "clients of image prewarm services"
tests/existing-clients/run.sh
say "the web pages, in a browser"
tests/browser/run.sh
say "passed"
