#!/usr/bin/env bash
# Measures how the server's cost grows with one dimension: resident memory, processor time, API requests
# and reaction times, at each size. Run with the environment of a cluster.
# usage: scale.sh nodes IMAGES                    a task on all fake nodes of the cluster
#        scale.sh workloads|tasks|watchers SIZE...   objects or watches, each size in addition to the previous one
set -euo pipefail
cd "$(dirname "$0")/../.."
dimension=$1
shift
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh
# Seconds without work, during which requests, processor time and wake-ups are counted.
idle_seconds=30
rounds=5
serve_options=(--api-watches 4096 --api-rate 100000)

# requests: requests to the API server but those for Leases; watches count once, when they are opened.
requests() { server_metrics | awk '/^prewarm_kube_requests_total/ && !/"leases"/ {sum += $NF} END {printf "%d", sum}'; }

# settle: waits until kube-controller-manager has written the statuses of new objects, which wakes the
# server up some hundred times a second: until 5 s have fewer than 20 wake-ups a second, for 10 min at most.
settle() {
  local before
  for _ in $(seq 120); do
    before=$(wakeups)
    sleep 5
    (($(wakeups) - before >= 100)) || return 0
  done
  echo "the server has more than 20 wake-ups per second after 10 min" >&2
  return 1
}

begin() { before_ticks=$(ticks) before_requests=$(requests); }
# point SIZE: records the cost since `begin`, the cost of idling, and the reaction times.
point() {
  local cpu sent idle_ticks idle_requests idle_wakeups
  sleep 10
  settle
  cpu=$(($(ticks) - before_ticks)) sent=$(($(requests) - before_requests))
  memory "$dimension $1"
  idle_ticks=$(ticks) idle_requests=$(requests) idle_wakeups=$(wakeups)
  sleep "$idle_seconds"
  idle_ticks=$(($(ticks) - idle_ticks)) idle_requests=$(($(requests) - idle_requests)) idle_wakeups=$(($(wakeups) - idle_wakeups))
  IFS=$'\t' read -r react start < <(python3 tests/measure/probe.py "$rounds")
  record point "$dimension" "$1" "$(awk '/^VmRSS/ {print $2}' "/proc/$server/status")" "$cpu" "$sent" \
    "$idle_ticks" "$idle_requests" "$idle_wakeups" "$react" "$start"
}

record idle "$idle_seconds"
serve
k create namespace probe > /dev/null
previous=0
case $dimension in
  nodes)
    nodes=$(k get nodes -l type=fake -o name | wc -l)
    begin
    task all Pod "$1" 100
    point "$nodes"
    ;;
  workloads)
    # The images that the workloads need are warm, so that no workload creates a task.
    task first Pod 20 100
    for size in "$@"; do
      begin
      python3 tests/measure/objects.py deployments "$size" 20 "$previous"
      point "$size"
      previous=$size
    done
    ;;
  tasks)
    for size in "$@"; do
      begin
      python3 tests/measure/objects.py tasks "$size" "$previous"
      point "$size"
      previous=$size
    done
    ;;
  watchers)
    for size in "$@"; do
      begin
      open_watches "$size"
      point "$size"
    done
    ;;
  *) sed -n '4,5s/^# //p' "$0" >&2; exit 2 ;;
esac
show_server_log
