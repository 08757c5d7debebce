#!/usr/bin/env bash
# make demo: shows how Prewarmer warms nodes, on a real Kubernetes on this machine. Prints a
# summary, and stops every process that it started.
# usage: run.sh [CONTEXT]   with CONTEXT, an existing cluster is used (existing.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ -z ${1:-} ]] || exec tests/demo/existing.sh "$1"
# shellcheck source=tests/environment.sh
. tests/environment.sh
require_linux demo
begun=$SECONDS
namespace=shop
# shellcheck source=tests/demo/lib.sh
. tests/demo/lib.sh

for tool in cargo rustc go openssl curl; do command -v "$tool" > /dev/null || fail "$tool is required, but is not on the PATH"; done

work=$(mktemp -d "${TMPDIR:-/tmp}/prewarmer-demo.XXXXXX")
server=''
proxy=''
finish() {
  local code=$?
  trap - EXIT INT TERM HUP
  [ "$code" -eq 0 ] || { echo "demo: FAILED"; [ ! -f "$work/prewarmer.log" ] || tail -n 20 "$work/prewarmer.log"; }
  title "stopping all processes"
  for pid in $proxy $server; do kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null; done || true
  tests/cluster/cluster stop "$work/cluster" --purge
  rm -rf "$work"
  [ "$code" -ne 0 ] || echo "${bold}demo: completed in $((SECONDS - begun)) s; all processes are stopped$plain"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

title "building prewarmer (debug build) and its static helper"
cargo build --locked --quiet --bin prewarmer
make -s helper HELPER="$work/prewarmer-helper"

title "starting Kubernetes with 20 fake nodes, and one real node if this machine supports it"
tests/cluster/cluster start "$work/cluster" --fake-nodes 20 --real-nodes 1 --owner $$
# shellcheck source=/dev/null
. "$work/cluster/env"
k() { "$KUBECTL" "$@"; }

push() { # push IMAGE FILE [ENTRYPOINT]
  tar -C "$(dirname "$2")" -cf "$work/layer.tar" "$(basename "$2")"
  "$BIN/crane" append --insecure -f "$work/layer.tar" -t "$1" > /dev/null 2>&1
  [ -z "${3:-}" ] || "$BIN/crane" mutate --insecure --entrypoint "$3" "$1" -t "$1" > /dev/null 2>&1
}
helper=registry.example/prewarmer-helper:demo
if [ "$REAL_NODES" -gt 0 ]; then
  title "pushing to the local registry: the helper, an application, and an image with one data file and no program"
  helper=$REGISTRY/prewarmer-helper:demo
  echo "rates of the day" > "$work/rates.csv"
  push "$helper" "$work/prewarmer-helper" /prewarmer-helper
  push "$REGISTRY/shop/app:1.0" "$BIN/pause" /pause
  push "$REGISTRY/shop/rates:1.0" "$work/rates.csv"
fi

title "starting prewarmer"
target/debug/prewarmer crds | k apply --server-side -f - > /dev/null
k wait --for=condition=Established crd/prewarmtasks.prewarm.io crd/prewarmplans.prewarm.io crd/prewarmschedules.prewarm.io --timeout=30s > /dev/null
k create namespace prewarmer > /dev/null
k create namespace shop > /dev/null
port=$((${APISERVER_URL##*:} + 4)) # +4 to +6 are free in the port range of the cluster
LOG_FORMAT=text target/debug/prewarmer serve --api-addr "127.0.0.1:$((port + 2))" --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" \
  --health-addr "127.0.0.1:$((port + 1))" --worker-image "$helper" > "$work/prewarmer.log" 2>&1 &
server=$!
for _ in $(seq 100); do
  curl -fs "http://127.0.0.1:$((port + 1))/readyz" > "$work/ready" 2> /dev/null && break
  kill -0 "$server" 2> /dev/null || fail "prewarmer exited"
  sleep 0.2
done
cat "$work/ready"; echo
sleep 1 # Until the API server's watch has received the webhook configuration.

title "applying a Deployment with 0 replicas: its image is pulled to all 20 fake nodes, 10 at a time"
deployment web 'type: fake' registry.example/shop/web:1.0 | k apply -f -
since=$SECONDS
fake_task=$(task_of web)
watch_task "$fake_task"
fake_seconds=$((SECONDS - since))
[ "$(k -n shop get prewarmtask "$fake_task" -o jsonpath='{.status.succeededNodes}')" = 20 ] || fail "not all fake nodes are warm"

real_line="not available on this machine: $REAL_NODES_REASON"
if [ "$REAL_NODES" -gt 0 ]; then
  title "the same on the real node (kubelet and containerd), with a data image in addition; no pod exists yet"
  deployment app 'kubernetes.io/hostname: real1' "$REGISTRY/shop/app:1.0" "$REGISTRY/shop/rates:1.0" | k apply -f -
  watch_task "$(task_of app)"
  title "starting its pod: the events of the kubelet"
  k -n shop scale deployment/app --replicas=1
  k -n shop rollout status deployment/app --timeout=60s > /dev/null
  events=$(image_events app-)
  # shellcheck disable=SC2001 # indents each line
  sed 's/^/   /' <<< "$events"
  grep -q 'already present' <<< "$events" || fail "the pod did not find its image"
  ! grep -q 'Pulling' <<< "$events" || fail "the pod pulled an image"
  real_line="all images were present when the pod started; none was pulled"
  title "the benefit, in the metrics"
  sleep 1 # The events of the kubelet arrive with a delay.
  curl -fs "http://127.0.0.1:$((port + 1))/metrics" | grep -E '^prewarm_(pod_starts_total|seconds_saved_total|lead_time_seconds_count)' | sed 's/^/   /'
fi

title "creating a task with curl and an API token, of one image that exists and one that does not; waiting for its end"
target/debug/prewarmer token create demo --namespaces shop > "$work/token-secret.json" 2> "$work/token.txt"
k apply --server-side --field-manager=prewarmer-token-demo -f "$work/token-secret.json"
token=$(grep '^prw_' "$work/token.txt")
k get validatingwebhookconfiguration prewarmer -o jsonpath='{.webhooks[0].clientConfig.caBundle}' | base64 -d > "$work/ca.crt"
api=https://127.0.0.1:$((port + 2))/api/v1
rest() { curl -sS --cacert "$work/ca.crt" -H "Authorization: Bearer $token" "$@"; }
for _ in $(seq 50); do [ "$(rest -o /dev/null -w '%{http_code}' "$api/tasks?namespace=shop")" = 200 ] && break; sleep 0.1; done
made=$(rest "$api/tasks" -H 'Content-Type: application/json' -d '{
  "images": ["registry.example/shop/web:1.0", "registry.example/shop/missing:1.0"],
  "nodeSelector": {"type": "fake"}, "nodes": 3, "namespace": "shop"}')
echo "   $made"
curled=$(sed -n 's/.*"taskId":"\([^"]*\)".*/\1/p' <<< "$made")
[ -n "$curled" ] || fail "no task was created by curl"
rest -N "$api/tasks/$curled/watch" | sed -n 's/^data: .*"status":"\([a-z]*\)".*"percentage":\([0-9.]*\).*/   \1, \2 %/p'
message=$(rest "$api/tasks/$curled" | sed -n 's/.*"message":"\([^"]*\)","createdAt".*/\1/p')
echo "   $message"
grep -q 'ImageNotFound: 3' <<< "$message" || fail "the message of the task does not report the failure"

title "summary"
echo "   admission: applying a Deployment warmed 20 nodes in $fake_seconds s, before its first pod"
echo "   real node: $real_line"
echo "   failure:   $message"
