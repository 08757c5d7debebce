#!/usr/bin/env bash
# Tests the demo on an existing cluster: a complete run, an interrupted one, and the refusals. Requires
# the environment of `tests/cluster/cluster with` with a real node, without Prewarmer.
# usage: check.sh [IMAGES]   (IMAGES: HOST/FOLDER with the images; default: they are built and pushed)
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { echo "demo check: $*"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
crane=$BIN/crane
image=$REGISTRY/demo/app:1.0
"$crane" append --insecure -f <(tar -C "$BIN" -c pause) -t "$image" > /dev/null 2>&1
"$crane" mutate --insecure --entrypoint /pause "$image" -t "$image" > /dev/null 2>&1
# Pods of this cluster, which has no kube-proxy, need the address of the API server.
gateway=$("$KUBECTL" get node real1 -o jsonpath='{.status.addresses[0].address}')
cat > "$work/values.yaml" << V
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: type, operator: NotIn, values: [fake]}]}]}}}
extraEnv:
  - {name: KUBERNETES_SERVICE_HOST, value: "${gateway%.*}.1"}
  - {name: KUBERNETES_SERVICE_PORT, value: "${APISERVER_URL##*:}"}
V
# Kubelets create the Leases of their nodes at any time.
objects() { # prints the names of all objects of the cluster but Leases of nodes
  local kinds
  kinds=$("$KUBECTL" api-resources --verbs=list -o name | grep -v '^events' | paste -sd, -)
  "$KUBECTL" get "$kinds" -A --ignore-not-found -o custom-columns=A:.kind,B:.metadata.namespace,C:.metadata.name --no-headers | awk '$2 != "kube-node-lease"' | sort
}
demo() { # demo ASSIGNMENT...: runs the demo with these variables
  # A shell that was started in the background ignores Ctrl-C, and so would the demo.
  env --default-signal=INT "$@" "VALUES=$work/values.yaml" "IMAGE=$image" NODE_SELECTOR=kubernetes.io/hostname=real1 bash tests/demo/run.sh current
}
expect() { grep -qF -- "$1" "$work/output" || { cat "$work/output"; say "FAILED: the output does not contain: $1"; exit 1; }; }
unchanged() { objects > "$work/after"; diff "$work/before" "$work/after" || { say "FAILED: $1 changed the cluster"; exit 1; }; }
if [[ -n ${1:-} ]]; then images=("IMAGES=$1"); else images=("REGISTRY=$REGISTRY/demo"); fi
unset REGISTRY
# Namespaces that earlier tests have deleted take some seconds to disappear.
for _ in $(seq 600); do
  "$KUBECTL" get namespaces -o jsonpath='{.items[*].status.phase}' | grep -q Terminating || break
  sleep 0.2
done
objects > "$work/before"

since=$SECONDS
! demo "${images[@]}" > "$work/output" 2>&1 < /dev/null || { say "FAILED: it did not ask"; exit 1; }
expect "set YES=1"
unchanged "a run without a confirmation"
"$KUBECTL" apply --server-side -f deploy/crds.yaml > /dev/null
! demo YES=1 "${images[@]}" > "$work/output" 2>&1 || { say "FAILED: it did not refuse a cluster with the definitions"; exit 1; }
expect "has Prewarmer's custom resource definitions already"
# A definition that is deleted before its first list remains forever: the API server's finalizer fails
# with "storage is (re)initializing", and does not try again.
"$KUBECTL" wait --for=condition=Established --timeout=60s -f deploy/crds.yaml > /dev/null
"$KUBECTL" get prewarmtasks,prewarmplans,prewarmschedules -A > /dev/null 2>&1
"$KUBECTL" delete --timeout=60s -f deploy/crds.yaml > /dev/null
say "refusals: passed in $((SECONDS - since)) s"

since=$SECONDS
demo YES=1 "${images[@]}" > "$work/output" 2>&1 || { cat "$work/output"; say FAILED; exit 1; }
expect "Completed  1/1 Nodes"
expect "already present on machine"
expect "nothing remains: no definition"
unchanged "a complete run"
say "complete run: passed in $((SECONDS - since)) s"

# Ctrl-C reaches all processes of the terminal, here the process group.
since=$SECONDS
set -m
demo YES=1 "${images[@]}" > "$work/output" 2>&1 < /dev/null &
group=$!
set +m
for _ in $(seq 3000); do
  grep -q '== applying a Deployment' "$work/output" && break
  sleep 0.1
done
kill -INT -- "-$group"
code=0
wait "$group" || code=$?
[[ $code != 0 ]] || { say "FAILED: an interrupted demo succeeded"; exit 1; }
expect "nothing remains: no definition"
unchanged "an interrupted run"
say "interrupted run: passed in $((SECONDS - since)) s"
