#!/usr/bin/env bash
# Measures throughput, latency and allocations of the webhook, called directly, of a minimal webhook
# in Go (benches/peer), and of two lower bounds (benches/baseline.rs), which alternate. Run with the
# environment of a cluster.
# usage: webhook.sh SECONDS PEER [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=$1 peer=$2 rounds=${3:-3}
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh
separate_processors
serve
memory "Prewarmer, idle"
make_review
record size "$(stat -c %s "$work/review.json")" "$seconds"
record allocations "$(target/release/examples/allocations "$work/review.json")"
bash certs/make-certs.sh "$work/certs" localhost 127.0.0.1 > /dev/null 2>&1
"${server_cpu[@]}" "$peer" --port $((port + 3)) --certificates "$work/certs" 2> /dev/null &
other=$!
"${server_cpu[@]}" target/release/examples/baseline echo $((port + 4)) "$work/certs" 2> /dev/null &
echoing=$!
"${server_cpu[@]}" target/release/examples/baseline parse $((port + 5)) "$work/certs" 2> /dev/null &
parsing=$!
others+=("$other" "$echoing" "$parsing")
for other_port in $((port + 3)) $((port + 4)) $((port + 5)); do
  for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$other_port") 2> /dev/null && break; sleep 0.1; done
done
load() { # load WHO ADDRESS CA PID CONNECTIONS
  local line
  read -ra line <<< "$("${load_cpu[@]}" target/release/examples/load "$2" "$3" "$work/review.json" "$4" "$seconds" "$5" | tail -n 1)"
  record reviews "$1" "${line[@]}"
}
for ((round = 1; round <= rounds; round++)); do
  for connections in 1 8 64; do
    load ours "127.0.0.1:$port" "$work/ca.pem" "$server" "$connections"
    load peer "127.0.0.1:$((port + 3))" "$work/certs/ca.crt" "$other" "$connections"
    load echo "127.0.0.1:$((port + 4))" "$work/certs/ca.crt" "$echoing" "$connections"
    load parse "127.0.0.1:$((port + 5))" "$work/certs/ca.crt" "$parsing" "$connections"
  done
done
memory "Prewarmer, after the load"
memory "Go, after the load" "$other"
sleep 60
memory "Prewarmer, 60 s after the load"
show_server_log
