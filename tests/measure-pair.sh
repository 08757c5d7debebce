#!/usr/bin/env bash
# Compares the webhooks of two builds: each serves in a cluster of its own, both at the same time, and they are loaded in turns of
# a second, so that both see the same changes of the machine's speed.
# usage: tests/measure-pair.sh BEFORE AFTER [TURNS]     paths of two release builds of prewarmer; 60 turns by default
# The figure is requests per second of the server's processor time: the ratio of the sums, and the median of the ratios of neighbouring turns.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --inside ]; then
  [ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
  cargo build --quiet --release --locked --example load
  exec tests/cluster/cluster with --fake-nodes 20 -- "$0" --inside "$1" "$2" "${3:-60}"
fi
program=$2 turns=$4
work=$(mktemp -d)
server=''
finish() { [ -z "$server" ] || { kill "$server"; wait "$server"; } 2> /dev/null || true; rm -rf "$work"; }
trap finish EXIT
k() { "$KUBECTL" "$@"; }
port=$((${APISERVER_URL##*:} + 4))
"$program" crds | k apply --server-side -f - > /dev/null
k create namespace prewarmer > /dev/null
"$program" serve --api-addr=none --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" --health-addr "127.0.0.1:$((port + 1))" \
  --worker-image registry.example/helper:1 --log-level warn 2> "$work/log" &
server=$!
for _ in $(seq 300); do curl -s "http://127.0.0.1:$((port + 1))/metrics" | grep -q '^prewarm_leader 1' && break; sleep 0.1; done
cat > "$work/web.yaml" <<'D'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default, annotations: {note: "NOTE"}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {type: fake}
      containers:
      - {name: web, image: "registry.example/shop/web:1.0", ports: [{containerPort: 80}], env: [{name: A, value: b}]}
      - {name: proxy, image: "registry.example/shop/proxy:1.0"}
D
sed -i "s/NOTE/$(head -c 3000 /dev/zero | tr '\0' x)/" "$work/web.yaml"
k apply -o json -f "$work/web.yaml" > "$work/object.json"
{
  printf '{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"group":"apps","version":"v1","kind":"Deployment"},"namespace":"default","operation":"CREATE","object":'
  tr -d '\n' < "$work/object.json"
  printf '}}'
} > "$work/review.json"
k get secret -n prewarmer prewarmer-ca -o jsonpath='{.data.ca\.crt}' | base64 -d > "$work/ca.pem"
sleep 20 # the task of the Deployment has ended: its images are covered, as for all reviews but the first
here="127.0.0.1:$port $work/ca.pem $work/review.json $server"
if [ -z "${PAIR_BEFORE:-}" ]; then
  PAIR_BEFORE=$here tests/cluster/cluster with --fake-nodes 20 -- "$0" --inside "$3" "$3" "$turns"
  exit
fi
turn() { # turn "ADDRESS CA REVIEW PID" CONNECTIONS: requests per second of processor time
  # shellcheck disable=SC2086
  target/release/examples/load $1 1 "$2" | awk 'END {print $3}'
}
for connections in 1 8 64; do
  for _ in $(seq "$turns"); do
    echo "$(turn "$PAIR_BEFORE" "$connections") $(turn "$here" "$connections")"
  done | awk -v n="$connections" '
    {before += 1 / $1; after += 1 / $2; ratio[NR] = $2 / $1}
    END {
      for (i = 1; i < NR; i++) for (j = i + 1; j <= NR; j++) if (ratio[j] < ratio[i]) {t = ratio[i]; ratio[i] = ratio[j]; ratio[j] = t}
      printf "%d connections: before %d, after %d requests per second of processor time; median ratio %.3f, quartiles %.3f and %.3f, of %d turns\n", \
        n, NR / before, NR / after, ratio[int((NR + 1) / 2)], ratio[int((NR + 3) / 4)], ratio[int((3 * NR + 1) / 4)], NR
    }'
done
