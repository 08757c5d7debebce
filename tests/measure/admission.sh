#!/usr/bin/env bash
# Measures admission as the API server sees it, of Prewarmer and of a minimal webhook in Go
# (benches/peer), which alternate: creates Deployments at a fixed rate, and compares the API server's
# histogram of the webhook's latency before and after. Run with the environment of a cluster.
# usage: admission.sh DEPLOYMENTS RATE PEER [TURNS]
set -euo pipefail
cd "$(dirname "$0")/../.."
count=$1 rate=$2 peer=$3 turns=${4:-3}
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh

# Namespaces: one that Prewarmer's webhook reviews, and one that it excludes by default.
declare -A namespace=([ours]=load [peer]=kube-public) webhook=([ours]=workloads.prewarm.io [peer]=peer.benches.example)

buckets() { # buckets WHO WHEN: the cumulative counts of the API server's histogram, and of Prewarmer's
  k get --raw /metrics | awk -v who="$1" -v when="$2" -v name="${webhook[$1]}" -v OFS='\t' '
    /^apiserver_admission_webhook_admission_duration_seconds_bucket/ && index($0, "name=\"" name "\"") && /operation="CREATE"/ {
      match($0, /le="[^"]*"/); sum[substr($0, RSTART + 4, RLENGTH - 5)] += $NF
    }
    END {for (le in sum) print when, who, le, sum[le]}' >> "${MEASURE_RECORD:-/dev/stdout}"
  [[ $1 == ours ]] || return 0
  server_metrics | awk -v when="$2" -v OFS='\t' '
    /^prewarm_admission_duration_seconds_bucket/ && !/PrewarmTask/ {match($0, /le="[^"]*"/); sum[substr($0, RSTART + 4, RLENGTH - 5)] += $NF}
    END {for (le in sum) print when, "server", le, sum[le]}' >> "${MEASURE_RECORD:-/dev/stdout}"
}
failed_open() { k get --raw /metrics | awk '/^apiserver_admission_webhook_fail_open_count/ && /"workloads.prewarm.io"/ {sum += $NF} END {printf "%d", sum}'; }

# Registers the webhook in Go with the rules and conditions of Prewarmer's, in its own namespace.
register_peer() {
  k get validatingwebhookconfiguration prewarmer -o json | python3 -c '
import base64, json, sys
name, namespace, url, ca = sys.argv[1:]
[hook] = [hook for hook in json.load(sys.stdin)["webhooks"] if hook["name"] == "workloads.prewarm.io"]
with open(ca, "rb") as file:
    hook["clientConfig"] = {"url": url, "caBundle": base64.b64encode(file.read()).decode()}
hook["name"] = name
hook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
hook["matchConditions"] = [one for one in hook["matchConditions"] if one["name"] != "not-the-system"]
json.dump({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "peer"}, "webhooks": [hook]}, sys.stdout)
' "${webhook[peer]}" "${namespace[peer]}" "https://127.0.0.1:$((port + 3))/admit/workloads" "$work/certs/ca.crt" | k create -f - > /dev/null
}

# create WHO COUNT: creates Deployments, prints the latency of the creations, and deletes them.
create() {
  "${load_cpu[@]}" target/release/examples/admissions "${namespace[$1]}" "$2" "$rate"
  # By collection: kubectl sends 50 requests per second otherwise.
  k delete --raw "/apis/apps/v1/namespaces/${namespace[$1]}/deployments" > /dev/null
}

separate_processors
serve
k create namespace "${namespace[ours]}" > /dev/null
bash certs/make-certs.sh "$work/certs" localhost 127.0.0.1 > /dev/null 2>&1
"${server_cpu[@]}" "$peer" --port $((port + 3)) --certificates "$work/certs" 2> /dev/null &
others+=($!)
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$((port + 3))") 2> /dev/null && break; sleep 0.1; done
register_peer
# The API server learns of the registration; then connections, and the lists of the webhook's caches.
sleep 5
for who in ours peer; do create "$who" 20 > /dev/null; done
sleep 5
record size "$count" "$rate" "$turns"
open=$(failed_open)
for ((turn = 1; turn <= turns; turn++)); do
  for who in ours peer; do
    buckets "$who" "before $turn"
    created=$(create "$who" "$count")
    buckets "$who" "after $turn"
    record client "$who" "$created"
    # The deletion's events have passed.
    sleep 3
  done
done
record failed_open "$(($(failed_open) - open))"
record tasks "$(k get prewarmtasks -n "${namespace[ours]}" -o name | wc -l)"
show_server_log
