#!/usr/bin/env bash
# Measures admission as the API server sees it: creates Deployments at a fixed rate, and compares the
# API server's histogram of the webhook's latency before and after. Run with the environment of a
# cluster.
# usage: admission.sh DEPLOYMENTS RATE
set -euo pipefail
cd "$(dirname "$0")/../.."
count=$1 rate=$2
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh

buckets() { # buckets WHEN: the cumulative counts of both histograms
  k get --raw /metrics | awk -v when="$1" -v OFS='\t' '
    /^apiserver_admission_webhook_admission_duration_seconds_bucket/ && /name="workloads.prewarm.io"/ && /operation="CREATE"/ {
      match($0, /le="[^"]*"/); sum[substr($0, RSTART + 4, RLENGTH - 5)] += $NF
    }
    END {for (le in sum) print when, "apiserver", le, sum[le]}' >> "${MEASURE_RECORD:-/dev/stdout}"
  server_metrics | awk -v when="$1" -v OFS='\t' '
    /^prewarm_admission_duration_seconds_bucket/ && !/PrewarmTask/ {match($0, /le="[^"]*"/); sum[substr($0, RSTART + 4, RLENGTH - 5)] += $NF}
    END {for (le in sum) print when, "server", le, sum[le]}' >> "${MEASURE_RECORD:-/dev/stdout}"
}
failed_open() { k get --raw /metrics | awk '/^apiserver_admission_webhook_fail_open_count/ {sum += $NF} END {printf "%d", sum}'; }

separate_processors
serve
k create namespace load > /dev/null
# Connections to the webhook, and the lists of the webhook's caches.
"${load_cpu[@]}" target/release/examples/admissions load 20 "$rate" > /dev/null
k delete deployments --all -n load > /dev/null
sleep 5
record size "$count" "$rate"
open=$(failed_open)
buckets before
record client "$("${load_cpu[@]}" target/release/examples/admissions load "$count" "$rate")"
buckets after
record failed_open "$(($(failed_open) - open))"
record tasks "$(k get prewarmtasks -n load -o name | wc -l)"
show_server_log
