#!/usr/bin/env bash
# Measures throughput and memory of the webhook, of the program PEER for comparison where it is
# given, and API requests per warmed node. Called by measure.sh with the environment of a cluster.
# usage: measure-in-cluster.sh [SECONDS [PEER]]
set -euo pipefail
seconds=${1:-5} peer=${2:-}
# shellcheck source=tests/measure-lib.sh
. tests/measure-lib.sh

serve
echo "memory, idle: $(memory)"

make_review
target/release/examples/allocations "$work/review.json"
run() { # run ADDRESS CA PID CONNECTIONS...
  local address=$1 ca=$2 pid=$3; shift 3
  target/release/examples/load "$address" "$ca" "$work/review.json" "$pid" "$seconds" "$@"
}
if [ -n "$peer" ]; then
  bash certs/make-certs.sh "$work/certs" localhost 127.0.0.1 > /dev/null 2>&1
  "$peer" --port $((port + 2)) --certificates "$work/certs" 2> /dev/null &
  other=$!
  for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$((port + 2))") 2> /dev/null && break; sleep 0.1; done
  echo "alternating, because the speed of the machine varies: prewarmer (ours), controller-runtime (peer, benches/peer)"
  echo "        connections  requests/s  requests/CPU-s  p50 ms  p99 ms  max ms"
  for connections in 1 8 64 1 8 64 1 8 64; do
    echo "ours    $(run "127.0.0.1:$port" "$work/ca.pem" "$server" "$connections" | tail -n 1)"
    echo "peer    $(run "127.0.0.1:$((port + 2))" "$work/certs/ca.crt" "$other" "$connections" | tail -n 1)"
  done
  echo "memory of the peer: $(awk '/^(VmHWM|VmRSS)/ {printf "%s %.1f MB  ", $1, $2 / 1024}' "/proc/$other/status")"
  kill "$other"; wait "$other" 2> /dev/null || true
else
  run "127.0.0.1:$port" "$work/ca.pem" "$server" 1 8 64
fi
echo "memory, after the load: $(memory)"
before=$(writes) before_ours=$(ours) since=$(date +%s%N)
echo '{"apiVersion":"prewarm.io/v1alpha1","kind":"PrewarmTask","metadata":{"name":"measure"},"spec":{"images":["a:1","b:1","c:1","d:1","e:1"],"nodeSelector":{"type":"fake"},"batchSize":10}}' | k apply -f - > /dev/null
k wait --for=condition=Complete prewarmtask/measure --timeout=300s > /dev/null
took=$((($(date +%s%N) - since) / 1000000))
sleep 3
echo "100 nodes x 5 images in batches of 10: $took ms"
echo "API writes by all components, without events and leases: $(($(writes) - before)); by prewarmer: $(($(ours) - before_ours))"
echo "memory, at the end: $(memory)"
