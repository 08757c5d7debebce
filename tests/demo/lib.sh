# shellcheck shell=bash
# Library of the demo: output, and the Deployment and task that it shows. The sourcing script defines
# the function `k`, which calls kubectl, and the variable `namespace`.
# shellcheck disable=SC2154

bold=''; plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m'; plain=$'\e[0m'; fi
title() { echo; echo "$bold== $*$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

deployment() { # deployment NAME NODE_SELECTOR IMAGE [DATA_IMAGE]: prints a Deployment with 0 replicas
  cat << D
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1, namespace: $namespace}
spec:
  replicas: 0
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      nodeSelector: {$2}
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: "$3"}]
D
  [[ -z ${4:-} ]] || echo "      volumes: [{name: rates, image: {reference: \"$4\"}}]"
}

task_of() { # task_of DEPLOYMENT: prints the name of the task that was created for it
  local name=''
  for _ in $(seq 100); do
    name=$(k -n "$namespace" get prewarmtasks -o jsonpath="{range .items[*]}{.metadata.name} {.metadata.annotations.prewarm\.io/workloads}{'\n'}{end}" | awk -v w="Deployment/$1" '$2 == w {print $1}')
    [[ -z $name ]] || break
    sleep 0.1
  done
  [[ -n $name ]] || fail "no task was created for Deployment/$1"
  echo "$name"
}

watch_task() { # watch_task TASK [SECONDS]: prints the progress of a task until it has ended
  local line last='' end=$((SECONDS + ${2:-120})) phase progress batch batches failed
  while ((SECONDS < end)); do
    IFS=, read -r phase progress batch batches failed < <(k -n "$namespace" get prewarmtask "$1" -o jsonpath='{.status.phase},{.status.progress},{.status.currentBatchIndex},{.status.totalBatches},{.status.failedNodeCount}{"\n"}')
    # The status counts batches from 0.
    line="$phase  $progress  batch $((${batch:-0} + 1)) of ${batches:-0}  failed: ${failed:-0}"
    [[ $line == "$last" ]] || echo "   $line"
    last=$line
    case $line in Completed* | Failed* | Cancelled*) return ;; esac
    sleep 0.2
  done
  fail "task $1 did not end"
}

image_events() { # image_events PREFIX: prints the kubelets' events about images of the pods with this prefix
  k -n "$namespace" get events -o jsonpath="{range .items[*]}{.involvedObject.name} {.reason}: {.message}{'\n'}{end}" | grep "^$1.*image" || true
}
