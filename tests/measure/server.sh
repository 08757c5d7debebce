# shellcheck shell=bash
# Scripts that source this file use `load_cpu` (SC2034).
# shellcheck disable=SC2034
#
# Library of the measurements that run with the environment of a cluster: starts a server
# ($program), reads the counters of the server and of the API server, and records figures.
program=${program:-target/release/prewarmer}
work=$(mktemp -d)
server=''
# Other programs that a measurement starts.
others=()
finish() { [ -z "$server" ] || { kill "$server" "${others[@]}"; wait "$server" "${others[@]}"; } 2> /dev/null || true; rm -rf "$work"; }
trap finish EXIT
k() { "$KUBECTL" "$@"; }
# Ports 4 to 6 of the cluster's range are free.
port=$((${APISERVER_URL##*:} + 4))
"$program" crds | k apply --server-side -f - > /dev/null
k create namespace prewarmer > /dev/null

# record FIELD...: one line of the section's record, from which tables.py makes the table.
record() { local IFS=$'\t'; printf '%s\n' "$*" >> "${MEASURE_RECORD:-/dev/stdout}"; }
now() { date +%s%N; }
milliseconds_since() { echo $((($(now) - $1) / 1000000)); }

writes() { k get --raw /metrics | awk '/^apiserver_request_total/ && /verb="(POST|PUT|PATCH|DELETE|DELETECOLLECTION)"/ && !/resource="(events|leases)"/ {sum += $NF} END {printf "%d", sum}'; }
server_metrics() { curl -s "http://127.0.0.1:$((port + 1))/metrics"; }
# Components whose requests are a share of the work on tasks.
engine='/component="(controller|intake|workload_watch)"/'
ours() { server_metrics | awk '/^prewarm_kube_requests_total/ && '"$engine"' && !/"(list|watch|get)"/ && !/"events"/ {sum += $NF} END {printf "%d", sum}'; }
reads() { server_metrics | awk '/^prewarm_kube_requests_total/ && '"$engine"' && /"(list|watch|get)"/ {sum += $NF} END {printf "%d", sum}'; }
# memory STAGE [PID]: records resident memory in KiB: now, of this anonymous, and the maximum.
memory() {
  record memory "$1" "$(awk '/^VmRSS/ {rss = $2} /^RssAnon/ {anon = $2} /^VmHWM/ {most = $2} END {print rss "\t" anon "\t" most}' "/proc/${2:-$server}/status")"
}

# ticks: processor time of the server, in hundredths of a second (CLK_TCK is 100 on Linux).
ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
# wakeups: voluntary context switches of the server's threads.
wakeups() { cat "/proc/$server/task/"*/status | awk '/^voluntary_ctxt_switches/ {sum += $2} END {printf "%d", sum}'; }
# idle SECONDS: records processor time in ms and voluntary context switches of the server within this time.
idle() {
  local used woken
  used=$(ticks) woken=$(wakeups)
  sleep "$1"
  record idle "$1" "$((($(ticks) - used) * 10))" "$(($(wakeups) - woken))"
}

# With two processors or more, the server and the load generator run on different ones. The control
# plane uses all.
server_cpu=() load_cpu=()
separate_processors() {
  (($(nproc) >= 2)) || return 0
  server_cpu=(taskset -c 0) load_cpu=(taskset -c "1-$(($(nproc) - 1))")
  record pinned "server and load generator on separate processors"
}

# Further options of the server.
serve_options=()
# Starts the server with the settings of the default installation (REST over TLS, the web pages, all
# watches) and serve_options, from a copy of the program that is not in the page cache. How many pages of a file a
# fault maps depends on the size of its folios there, and this on how the file was written: the same
# program had 22 or 25 MB of its file resident.
serve() {
  cp "$program" "$work/program"
  sync "$work/program"
  dd of="$work/program" oflag=nocache conv=notrunc count=0 status=none
  "${server_cpu[@]}" "$work/program" serve --api-addr "127.0.0.1:$((port + 2))" --webhook-addr "127.0.0.1:$port" \
    --webhook-url "https://127.0.0.1:$port" --health-addr "127.0.0.1:$((port + 1))" \
    --worker-image registry.example/helper:1 --log-level warn "${serve_options[@]}" 2>> "$work/log" &
  server=$!
  local tries=300 since
  since=$(now)
  # The answer of a request, 5 ms, is the resolution.
  until curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null || ! kill -0 "$server" || (($(milliseconds_since "$since") > 30000)); do
    sleep 0.005
  done
  record ready "$(milliseconds_since "$since")"
  # Leader election and the initial lists are not measured.
  until curl -fs "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && server_metrics | grep -q '^prewarm_leader 1'; do
    ((tries -= 1)) || { echo "the server does not lead after 30 s; its log:"; tail -n 20 "$work/log"; return 1; }
    sleep 0.1
  done
  record priority "$(ps -o ni= -p "$server" | tr -d ' ')"
  k get secret -n prewarmer prewarmer-ca -o jsonpath='{.data.ca\.crt}' | base64 -d > "$work/ca.pem"
  sleep 5
}

# read_token: creates an API token that may read every namespace, and prints it once it is accepted.
read_token() {
  "$program" token create measure --namespaces '*' --read-only 2> "$work/token" |
    k apply --server-side --force-conflicts --field-manager=prewarmer-token-measure -f - > /dev/null
  local token tries=50
  token=$(grep -o 'prw_[A-Za-z0-9_-]*' "$work/token")
  until curl -fs --cacert "$work/ca.pem" -H "Authorization: Bearer $token" "https://127.0.0.1:$((port + 2))/api/v1/stats" > /dev/null; do
    ((tries -= 1)) || { echo "the server does not accept the token after 5 s" >&2; return 1; }
    sleep 0.1
  done
  echo "$token"
}

# Number of open REST watches, and the descriptors that keep them open.
opened=0 holds=()
# open_watches COUNT: opens REST watches of a suspended task until COUNT are open: at most 500 in a
# process, which ends with its standard input.
open_watches() {
  local count hold token
  if ((!opened)); then
    k create -f - > /dev/null <<'T'
{"apiVersion":"prewarm.io/v1alpha1","kind":"PrewarmTask","metadata":{"name":"watched","namespace":"default"},"spec":{"images":["watched:1"],"suspend":true}}
T
  fi
  token=$(read_token)
  while ((opened < $1)); do
    count=$(($1 - opened < 500 ? $1 - opened : 500))
    mkfifo "$work/hold-$opened"
    python3 tests/measure/probe.py watch "127.0.0.1:$((port + 2))" "$work/ca.pem" "$token" default/watched "$count" \
      < "$work/hold-$opened" > "$work/opened-$opened" &
    exec {hold}> "$work/hold-$opened"
    holds+=("$hold")
    for _ in $(seq 600); do
      ! grep -q open "$work/opened-$opened" || break
      sleep 0.1
    done
    grep -q open "$work/opened-$opened" || { echo "$count watches were not opened after 60 s"; return 1; }
    opened=$((opened + count))
  done
}
close_watches() {
  local hold
  for hold in "${holds[@]}"; do exec {hold}>&-; done
  opened=0 holds=()
}

# task NAME KIND IMAGES BATCH: warms the images app-0:1 and so on, on all fake nodes, and records time and requests.
task() {
  local name=$1 kind=$2 images=$3 batch=$4 before before_ours before_reads took since list
  list=$(seq -s, 0 $((images - 1)) | sed -E 's/([0-9]+)/"app-\1:1"/g')
  before=$(writes) before_ours=$(ours) before_reads=$(reads) since=$(now)
  echo '{"apiVersion":"prewarm.io/v1alpha1","kind":"PrewarmTask","metadata":{"name":"'"$name"'"},"spec":{"images":['"$list"'],"nodeSelector":{"type":"fake"},"batchSize":'"$batch"',"worker":"'"$kind"'","pullMethod":"ImageVolume","imagePullPolicy":"Always"}}' | k apply -f - > /dev/null
  k wait --for=condition=Complete "prewarmtask/$name" --timeout=3600s > /dev/null
  took=$(milliseconds_since "$since")
  # Deletions of the last workers.
  sleep 3
  record run server "$kind" "$took" "$(($(writes) - before))" "$(($(ours) - before_ours))" "$(($(reads) - before_reads))" \
    "$(k get prewarmtask "$name" -o json | wc -c)"
}

show_server_log() { [ ! -s "$work/log" ] || { echo "log of the server:"; head -c 4000 "$work/log"; }; }

# Applies a Deployment, and writes its review to $work/review.json. Returns when the Deployment's
# task has ended: its images are then covered, the usual case in a rollout.
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
  sleep 15
}
