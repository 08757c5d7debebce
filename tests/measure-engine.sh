#!/usr/bin/env bash
# Called by measure.sh with a cluster's environment: nodes warmed by the server beside the floor, in the same run.
# usage: measure-engine.sh NODES IMAGES BATCH KINDS [--no-floor]
set -euo pipefail
nodes=$1 images=$2 batch=$3 kinds=$4 floor=${5:-}
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
  target/release/prewarmer serve --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" \
    --health-addr "127.0.0.1:$((port + 1))" --worker-image registry.example/helper:1 --log-level warn 2>> "$work/log" &
  server=$!
  for _ in $(seq 300); do curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && break; sleep 0.1; done
  # Leadership, and the first lists, are not what is measured.
  for _ in $(seq 300); do curl -s "http://127.0.0.1:$((port + 1))/metrics" | grep -q '^prewarm_leader 1' && break; sleep 0.1; done
  sleep 5
}

one_floor() {
  local kind=$1 before took
  before=$(writes)
  took=$(target/release/examples/floor "$kind" "$nodes" "$images" "$batch")
  sleep 3
  echo "floor, $kind: $(per "$took" 1000) s, $(per $((nodes * 1000)) "$took") nodes/s, $(per $(($(writes) - before)) "$nodes") API writes per node"
}

one_task() {
  local kind=$1 before before_ours before_reads took since name list
  name=measure-$(tr '[:upper:]' '[:lower:]' <<< "$kind")-$RANDOM
  list=$(seq -s, 0 $((images - 1)) | sed -E 's/([0-9]+)/"app-\1:1"/g')
  before=$(writes) before_ours=$(ours) before_reads=$(reads) since=$(date +%s%N)
  echo '{"apiVersion":"prewarm.io/v1alpha1","kind":"PrewarmTask","metadata":{"name":"'"$name"'"},"spec":{"images":['"$list"'],"nodeSelector":{"type":"fake"},"batchSize":'"$batch"',"worker":"'"$kind"'","imagePullPolicy":"Always"}}' | k apply -f - > /dev/null
  k wait --for=condition=Complete "prewarmtask/$name" --timeout=3000s > /dev/null
  took=$((($(date +%s%N) - since) / 1000000))
  sleep 3
  echo "server, $kind: $(per "$took" 1000) s, $(per $((nodes * 1000)) "$took") nodes/s, $(per $(($(writes) - before)) "$nodes") API writes per node, $(per $(($(ours) - before_ours)) "$nodes") of them its own; $(($(reads) - before_reads)) reads"
  echo "  status: $(k get prewarmtask "$name" -o json | wc -c) bytes of JSON; memory: $(memory)"
}

echo "$nodes nodes x $images images in batches of $batch"
serve
echo "memory, idle: $(memory)"
for kind in $kinds; do
  if [ "$floor" != --no-floor ]; then one_floor "$kind"; fi
  one_task "$kind"
  if [ "$floor" != --no-floor ]; then one_floor "$kind"; fi
done
if [ -s "$work/log" ]; then echo "the server's log:"; head -c 4000 "$work/log"; fi
