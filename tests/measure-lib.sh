# shellcheck shell=bash
# Library of measure-*.sh, which run with the environment of a cluster: starts a server ($program),
# and reads the counters of the server and of the API server.
program=${program:-target/release/prewarmer}
work=$(mktemp -d)
server=''
finish() { [ -z "$server" ] || { kill "$server"; wait "$server"; } 2> /dev/null || true; rm -rf "$work"; }
trap finish EXIT
k() { "$KUBECTL" "$@"; }
port=$((${APISERVER_URL##*:} + 4))
"$program" crds | k apply --server-side -f - > /dev/null
k create namespace prewarmer > /dev/null
writes() { k get --raw /metrics | awk '/^apiserver_request_total/ && /verb="(POST|PUT|PATCH|DELETE|DELETECOLLECTION)"/ && !/resource="(events|leases)"/ {sum += $NF} END {printf "%d", sum}'; }
# Components whose requests are a share of the work on tasks.
engine='/component="(controller|intake|workload_watch)"/'
ours() { curl -s "http://127.0.0.1:$((port + 1))/metrics" | awk '/^prewarm_kube_requests_total/ && '"$engine"' && !/"(list|watch)"/ && !/"events"/ {sum += $NF} END {printf "%d", sum}'; }
reads() { curl -s "http://127.0.0.1:$((port + 1))/metrics" | awk '/^prewarm_kube_requests_total/ && '"$engine"' && /"(list|watch|get)"/ {sum += $NF} END {printf "%d", sum}'; }
memory() { awk '/^(VmHWM|VmRSS|RssAnon|RssFile)/ {printf "%s %.1f MB  ", $1, $2 / 1024} END {print ""}' "/proc/$server/status"; }
per() { awk -v n="$1" -v d="$2" 'BEGIN {printf "%.2f", n / d}'; }

# Starts a copy of the program that is not in the page cache. How many pages of a file a fault maps
# depends on the size of its folios there, and this on how the file was written: the same program
# had 22 or 25 MB of its file resident.
serve() {
  cp "$program" "$work/program"
  sync "$work/program"
  dd of="$work/program" oflag=nocache conv=notrunc count=0 status=none
  "$work/program" serve --api-addr=none --webhook-addr "127.0.0.1:$port" --webhook-url "https://127.0.0.1:$port" \
    --health-addr "127.0.0.1:$((port + 1))" --worker-image registry.example/helper:1 --log-level warn 2>> "$work/log" &
  server=$!
  for _ in $(seq 300); do curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && break; sleep 0.1; done
  # Leader election and the initial lists are not measured.
  for _ in $(seq 300); do curl -s "http://127.0.0.1:$((port + 1))/metrics" | grep -q '^prewarm_leader 1' && break; sleep 0.1; done
  sleep 5
}

# Applies a Deployment, and writes its review to $work/review.json and the CA certificate to
# $work/ca.pem. Returns when the Deployment's task has ended: its images are then covered, the usual
# case in a rollout.
make_review() {
  cat > "$work/deployment.yaml" <<'D'
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
  sed -i "s/NOTE/$(head -c 3000 /dev/zero | tr '\0' x)/" "$work/deployment.yaml"
  k apply -o json -f "$work/deployment.yaml" > "$work/object.json"
  {
    printf '{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"group":"apps","version":"v1","kind":"Deployment"},"namespace":"default","operation":"CREATE","object":'
    tr -d '\n' < "$work/object.json"
    printf '}}'
  } > "$work/review.json"
  k get secret -n prewarmer prewarmer-ca -o jsonpath='{.data.ca\.crt}' | base64 -d > "$work/ca.pem"
  sleep 15
}
