# shellcheck shell=bash
# For measure-*.sh, with a cluster's environment: a server, and what it and the API server count.
work=$(mktemp -d)
server=''
finish() { [ -z "$server" ] || { kill "$server"; wait "$server"; } 2> /dev/null || true; rm -rf "$work"; }
trap finish EXIT
k() { "$KUBECTL" "$@"; }
port=$((${APISERVER_URL##*:} + 4))
target/release/prewarmer crds | k apply --server-side -f - > /dev/null
k create namespace prewarmer > /dev/null
writes() { k get --raw /metrics | awk '/^apiserver_request_total/ && /verb="(POST|PUT|PATCH|DELETE|DELETECOLLECTION)"/ && !/resource="(events|leases)"/ {sum += $NF} END {printf "%d", sum}'; }
ours() { curl -s "http://127.0.0.1:$((port + 1))/metrics" | awk '/^prewarm_kube_requests_total/ && !/"(list|watch)"/ && !/"events"/ {sum += $NF} END {printf "%d", sum}'; }
reads() { curl -s "http://127.0.0.1:$((port + 1))/metrics" | awk '/^prewarm_kube_requests_total/ && /"(list|watch|get)"/ {sum += $NF} END {printf "%d", sum}'; }
memory() { awk '/^(VmHWM|VmRSS|RssAnon|RssFile)/ {printf "%s %.1f MB  ", $1, $2 / 1024} END {print ""}' "/proc/$server/status"; }
per() { awk -v n="$1" -v d="$2" 'BEGIN {printf "%.2f", n / d}'; }

serve() {
  target/release/prewarmer serve --api-addr=none --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" \
    --health-addr "127.0.0.1:$((port + 1))" --worker-image registry.example/helper:1 --log-level warn 2>> "$work/log" &
  server=$!
  for _ in $(seq 300); do curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && break; sleep 0.1; done
  # Leadership, and the first lists, are not what is measured.
  for _ in $(seq 300); do curl -s "http://127.0.0.1:$((port + 1))/metrics" | grep -q '^prewarm_leader 1' && break; sleep 0.1; done
  sleep 5
}
