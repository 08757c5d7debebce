#!/usr/bin/env bash
# Runs the commands of the documentation: the code blocks in `sh` of each page, in order and unchanged
# except for the placeholders below, against an installed chart. Requires the environment of
# `tests/cluster/cluster with` with a real node, and both images in $REGISTRY/$FOLDER.
# usage: pages.sh [PAGE...]   (default: all)
#   FOLDER        folder of the images in $REGISTRY (default: none)
#   PROGRAMS      directory of prewarmer and kubectl-prewarm (default: target/debug)
# A block that cannot run has the line `<!-- not run: REASON -->` above it. A page with a block in
# `sh` must be in one of the two lists.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

# Pages in the order in which they run. Those that install the chart start with an empty cluster.
pages=(docs/install.md docs/quick-start.md README.md docs/kubectl.md docs/rest-api.md docs/notifications.md docs/tracing.md
  docs/certificates.md docs/troubleshooting.md)
installing=(docs/install.md docs/quick-start.md README.md)
# Pages whose blocks another test runs.
declare -A elsewhere=(
  [docs/clients.md]=tests/examples.sh
  [docs/ci.md]=tests/e2e/pipelines.rs
)
# Words of the pages, and what they stand for in the test: this cluster cannot reach Docker Hub, and only
# real nodes have a kubelet, whose events the quick start shows.
placeholders() {
  # A watch exits with 1 where the task was cancelled, as the page states.
  sed -e "s#^kubectl prewarm \(watch\|cancel\) NAME#& || test \$? = 1#" -e "s#REGISTRY/FOLDER#$REGISTRY${FOLDER:+/$FOLDER}#g" -e "s#\bNAME\b#$1#g" \
    -e "s#nginx:1.27-alpine#$REGISTRY/pages/web:2.0#" -e "s#{kubernetes.io/os: linux}#{kubernetes.io/hostname: real1}#"
}

# A page takes less than a minute; one that waits for a pull that cannot succeed would take ten.
time_limit=180
say() { echo "pages: $*"; }
blocks() { # blocks PAGE: prints `LINE run` or `LINE skip REASON` for each block in sh
  awk '
    /^<!-- not run: .+ -->$/ { reason = $0; sub(/^<!-- not run: /, "", reason); sub(/ -->$/, "", reason); next }
    /^```/ && inside { inside = 0; next }
    /^```sh$/ { print NR, (reason == "" ? "run" : "skip " reason) }
    /^```/ { inside = 1; reason = ""; next }
    NF && !inside { reason = "" }' "$1"
}
block() { # block PAGE LINE: prints the block whose fence is in this line
  awk -v first="$2" 'NR > first && /^```/ { exit } NR > first' "$1"
}

all=()
for page in README.md docs/*.md; do [[ -z $(blocks "$page") ]] || all+=("$page"); done
for page in "${all[@]}"; do
  [[ " ${pages[*]} " == *" $page "* || -n ${elsewhere[$page]:-} ]] || ! blocks "$page" | grep -q ' run$' ||
    { say "$page has code blocks in sh that no test runs: add it to the list in tests/pages.sh, or mark each block with <!-- not run: REASON -->"; exit 1; }
done
chosen=("$@")
((${#chosen[@]})) || chosen=("${pages[@]}")

work=$(mktemp -d)
finish() {
  local code=$?
  trap - EXIT
  [[ -z ${group:-} ]] || kill -- "-$group" 2> /dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Programs that the pages call by name. This cluster has no kube-proxy, so pods need the address of the
# API server, and the servers may run on real nodes only.
programs=$(cd "${PROGRAMS:-${CARGO_TARGET_DIR:-target}/debug}" && pwd)
mkdir "$work/bin" "$work/home"
gateway=$("$KUBECTL" get node real1 -o jsonpath='{.status.addresses[0].address}')
cat > "$work/values.yaml" << V
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: type, operator: NotIn, values: [fake]}]}]}}}
extraEnv:
  - {name: KUBERNETES_SERVICE_HOST, value: "${gateway%.*}.1"}
  - {name: KUBERNETES_SERVICE_PORT, value: "${APISERVER_URL##*:}"}
V
cat > "$work/bin/helm" << H
#!/usr/bin/env bash
[[ \$1 != install && \$1 != upgrade ]] || set -- "\$@" -f "$work/values.yaml"
exec "$BIN/helm" "\$@"
H
chmod +x "$work/bin/helm"
ln -s "$KUBECTL" "$work/bin/kubectl"
ln -s "$programs/prewarmer" "$programs/kubectl-prewarm" "$work/bin/"
ln -s "$root/deploy" "$root/certs" "$work/home/"
# The chart of an application, which the page of the plugin renders.
mkdir -p "$work/home/web/templates"
echo "{apiVersion: v2, name: web, version: 1.0.0}" > "$work/home/web/Chart.yaml"
echo '{apiVersion: apps/v1, kind: Deployment, metadata: {name: chart}, spec: {template: {spec: {nodeSelector: {pool: web}, containers: [{name: c, image: "registry.example/shop/chart:1"}]}}}}' > "$work/home/web/templates/web.yaml"
export PATH=$work/bin:$PATH
# The pages say `kubectl prewarm ... NAME`: the name of this task.
sample=tonight

remove_installation() {
  helm uninstall prewarmer -n prewarmer --wait > /dev/null 2>&1 || true
  kubectl delete crd prewarmtasks.prewarm.io prewarmplans.prewarm.io prewarmschedules.prewarm.io --ignore-not-found > /dev/null
  kubectl delete namespace prewarmer shop --ignore-not-found > /dev/null
}
is_installed() { kubectl -n prewarmer get deployment/prewarmer > /dev/null 2>&1; }
prepare() { # prepare PAGE: creates what the page refers to
  if [[ " ${installing[*]} " == *" $1 "* ]]; then
    remove_installation
  elif ! is_installed; then
    helm install prewarmer "$root/deploy/chart" -n prewarmer --create-namespace --set "image.registry=$REGISTRY${FOLDER:+/$FOLDER}" --wait > /dev/null
  fi
  kubectl create namespace shop --dry-run=client -o yaml | kubectl apply -f - > /dev/null
  kubectl label nodes -l type=fake pool=web disk=ssd --overwrite > /dev/null
  kubectl -n shop apply -f - > /dev/null << 'D'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeSelector: {pool: web}, containers: [{name: web, image: "registry.example/shop/web:1.0"}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, labels: {app: web}}
spec:
  replicas: 0
  serviceName: db
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeSelector: {pool: web}, containers: [{name: db, image: "registry.example/shop/db:1.0"}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, nodeSelector: {pool: web}, containers: [{name: report, image: "registry.example/shop/report:1.0"}]}
D
  if [[ " ${installing[*]} " != *" $1 "* ]]; then
    kubectl -n shop delete prewarmtask "$sample" --ignore-not-found > /dev/null
    # It is cancelled while its images are pulled, so that it can be explained and retried. The page
    # before may have pulled its own image, by a retry.
    tag=$((${tag:-0} + 1))
    kubectl prewarm run "registry.example/shop/slow:$tag" -n shop --name "$sample" --node-selector pool=web --nodes 5 > /dev/null
    for _ in $(seq 300); do
      [[ -z $(kubectl -n shop get jobs -l "prewarm.io/task=$sample" -o name) ]] || break
      sleep 0.2
    done
    kubectl prewarm cancel "$sample" -n shop > /dev/null
    kubectl prewarm watch "$sample" -n shop > /dev/null || true
  fi
}
run_page() { # run_page PAGE: runs its blocks in one shell
  local page=$1 line verdict reason count=0 script=$work/page.sh code=0
  {
    echo "wait_for_port() { for _ in \$(seq 100); do (exec 3<> /dev/tcp/127.0.0.1/8080) 2> /dev/null && return; sleep 0.1; done; }"
    # The namespace of the kubeconfig, as users of the plugin have set it.
    while read -r line verdict reason; do
      [[ $verdict == run ]] || continue
      echo "echo '-- $page:$line'"
      block "$page" "$line" | placeholders "$sample"
      ! block "$page" "$line" | grep -q 'port-forward service/prewarmer 8080' || echo wait_for_port
      count=$((count + 1))
    done < <(blocks "$page")
  } > "$script"
  while read -r line verdict reason; do [[ $verdict == run ]] || say "$page:$line: not run: $reason"; done < <(blocks "$page")
  # In a process group of its own, because pages start port forwards in the background.
  set -m
  (cd "$work/home" && exec timeout --foreground "$time_limit" bash -eu "$script") > "$work/output" 2>&1 < /dev/null &
  group=$!
  set +m
  wait "$group" || code=$?
  kill -- "-$group" 2> /dev/null || true
  group=''
  if ((code != 0)); then
    cat "$work/output"
    say "$page: FAILED with exit status $code in the block at $(grep -o '^-- .*' "$work/output" | tail -n 1)"
    exit 1
  fi
  [[ -z ${VERBOSE:-} ]] || cat "$work/output"
  [[ $page != docs/quick-start.md ]] || grep -q 'already present on machine' "$work/output" ||
    { cat "$work/output"; say "$page: FAILED: the pod did not find its image"; exit 1; }
}

"$BIN/crane" append --insecure -f <(tar -C "$BIN" -c pause) -t "$REGISTRY/pages/web:2.0" > /dev/null 2>&1
"$BIN/crane" mutate --insecure --entrypoint /pause "$REGISTRY/pages/web:2.0" -t "$REGISTRY/pages/web:2.0" > /dev/null 2>&1
kubectl config set-context --current --namespace=shop > /dev/null
for page in "${chosen[@]}"; do
  since=$SECONDS
  prepare "$page"
  run_page "$page"
  say "$page: $(blocks "$page" | grep -c ' run$' || true) blocks passed in $((SECONDS - since)) s"
done
remove_installation
kubectl config set-context --current --namespace= > /dev/null
say "passed"
