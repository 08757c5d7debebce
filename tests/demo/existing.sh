#!/usr/bin/env bash
# make demo CLUSTER=CONTEXT: shows on an existing cluster how Prewarmer warms nodes. Installs the
# chart into a namespace of its own, and deletes everything that it created.
# usage: existing.sh CONTEXT
#   CONTEXT        context of the kubeconfig, or `current`
#   YES=1          do not ask before changing the cluster
#   REGISTRY       HOST/FOLDER of a registry that the nodes reach: the images are pushed there
#   IMAGES         HOST/FOLDER with images that were pushed before: nothing is built
#   IMAGE          image of the Deployment (default: nginx:1.27-alpine)
#   NODE_SELECTOR  KEY=VALUE: warms only nodes with this label (default: kubernetes.io/os=linux)
#   VALUES         file with further values of the chart
# Without REGISTRY and IMAGES the images are loaded into kind, k3d, minikube or k3s.
set -euo pipefail
cd "$(dirname "$0")/../.."
begun=$SECONDS
namespace=prewarmer-demo
release=demo
# shellcheck source=tests/demo/lib.sh
. tests/demo/lib.sh

kubectl=${KUBECTL:-kubectl}
command -v "$kubectl" > /dev/null || fail "kubectl is required, but is not on the PATH"
context=$1
if [[ $context == current ]]; then
  context=$("$kubectl" config current-context 2> /dev/null) || fail "the kubeconfig has no current context: set one (kubectl config use-context NAME), or name one (CLUSTER=NAME)"
fi
k() { "$kubectl" --context "$context" --request-timeout=30s "$@"; }
image=${IMAGE:-nginx:1.27-alpine}
selector=${NODE_SELECTOR:-kubernetes.io/os=linux}
[[ $selector =~ ^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*$ ]] || fail "NODE_SELECTOR=$selector: expected KEY=VALUE"
[[ $image =~ ^[A-Za-z0-9./:@_-]+$ ]] || fail "IMAGE=$image: not an image reference"

# --- what is there

server=$("$kubectl" config view --minify --context "$context" -o jsonpath='{.clusters[0].cluster.server}' 2> /dev/null) || true
[[ -n $server ]] || fail "the kubeconfig has no context '$context': kubectl config get-contexts lists them"
version=$(k version -o json 2> /dev/null | tr -d ' "\n' | sed -n 's/.*serverVersion:{[^}]*gitVersion:\([^,}]*\).*/\1/p') || true
[[ -n $version ]] || fail "the cluster of context '$context' ($server) does not answer: check it with 'kubectl --context $context get nodes'"
kubelet=$(k get nodes -l "$selector" -o jsonpath='{.items[0].status.nodeInfo.kubeletVersion}' 2> /dev/null) || true
[[ -n $kubelet ]] || fail "no node has the label $selector: set NODE_SELECTOR=KEY=VALUE"
nodes=$(k get nodes -l "$selector" -o name | wc -l)
definitions=$(k get crd -o name | grep '\.prewarm\.io$' || true)
if [[ -n $definitions ]]; then
  fail "this cluster has Prewarmer's custom resource definitions already:
$definitions
Prewarmer is installed, or was. This demo would delete the definitions at its end, with all tasks and schedules, so it
does not start. To see the installation at work, apply a Deployment and run: kubectl get prewarmtasks -A
To remove a former installation: docs/install.md, section \"Removing\"."
fi
! k get namespace "$namespace" > /dev/null 2>&1 ||
  fail "the namespace $namespace exists: it may contain objects of others, so the demo does not use it. Delete it first: kubectl delete namespace $namespace"
# Cluster-scoped and foreign objects with this name must not exist before, and must not exist afterwards.
kinds=clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,priorityclasses,crds
ours() { k get "$kinds" -o name 2> /dev/null | grep -E '/prewarmer-demo([^a-z0-9]|$)|\.prewarm\.io$' || true; }
before=$(ours)
[[ -z $before ]] || fail "objects of an earlier demo exist: delete them first: kubectl delete $(tr '\n' ' ' <<< "$before")"

# --- how the images get to the nodes

loader=''
if [[ -n ${IMAGES:-} ]]; then
  source="uses the images of $IMAGES; builds nothing"
elif [[ -n ${REGISTRY:-} ]]; then
  source="builds two images (deploy/images.sh) and pushes them to $REGISTRY"
else
  case $context in
    kind-*) loader=kind ;;
    k3d-*) loader=k3d ;;
    minikube) loader=minikube ;;
    *) [[ $kubelet != *+k3s* ]] || loader=k3s ;;
  esac
  [[ -n $loader ]] || fail "the nodes of '$context' must get two images: set REGISTRY=HOST/FOLDER to build and push them to a registry
that the nodes reach (with the credentials of ~/.docker/config.json), or IMAGES=HOST/FOLDER if they are there already"
  command -v "$loader" > /dev/null || fail "$loader is required to load images into this cluster, but is not on the PATH; alternatively set REGISTRY=HOST/FOLDER"
  [[ $loader != k3s || $nodes == 1 ]] || fail "k3s has $nodes nodes, and images can be imported only on this machine: set REGISTRY=HOST/FOLDER"
  source="builds two images (deploy/images.sh) and loads them by $loader"
fi
if [[ -z ${IMAGES:-} ]]; then
  for tool in cargo rustc go git; do
    command -v "$tool" > /dev/null || fail "$tool is required to build the images, but is not on the PATH; IMAGES=HOST/FOLDER uses images that are pushed already"
  done
  architecture=$(k get nodes -l "$selector" -o jsonpath='{.items[0].status.nodeInfo.architecture}')
  machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
  [[ $architecture == "$machine" ]] || fail "the nodes are $architecture, and this machine builds images for $machine: push images for $architecture (deploy/images.sh --arch), and set IMAGES=HOST/FOLDER"
fi

cat << P
This demo uses the cluster of the context $bold$context$plain ($server, Kubernetes $version). It

  1. $source
  2. creates the namespace $namespace, and installs the chart into it as the release '$release'. The chart has
     cluster-scoped objects: 3 custom resource definitions, roles, a webhook configuration that fails open, admission
     policies for Prewarmer's own account, and a priority class. Prewarmer watches that namespace only
  3. applies a Deployment with 0 replicas, whose image $image is pulled to nodes with
     $selector ($nodes in the cluster, at most 100 are used), and starts one pod of it
  4. deletes the release, the definitions and the namespace, also after Ctrl-C and failures

What remains: the pulled images on the nodes, until the kubelet's garbage collection$([[ -z ${REGISTRY:-} || -n ${IMAGES:-} ]] || echo ", and the images in $REGISTRY").
P
if [[ ${YES:-} != 1 ]]; then
  [[ -t 0 ]] || fail "there is no terminal to confirm this on: set YES=1"
  read -r -p "Continue? [y/N] " answer
  [[ $answer == y || $answer == Y || $answer == yes ]] || fail "nothing was changed"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/prewarmer-demo.XXXXXX")
registry_pid=''
changed=''
remove_all() { # deletes what the demo created, and verifies that nothing remains
  local left
  title "deleting everything that the demo created"
  k -n "$namespace" delete deployment/web --ignore-not-found --wait > /dev/null 2>&1 || true
  # Deletes the webhook configuration first, and with crds.keep=false the definitions and tasks.
  if [[ -n $("$helm" --kube-context "$context" -n "$namespace" list --all --short 2> /dev/null) ]]; then
    "$helm" --kube-context "$context" -n "$namespace" uninstall "$release" --wait --timeout 2m > "$work/uninstall.log" 2>&1 || cat "$work/uninstall.log"
  fi
  # An interrupted installation may have created objects without a release.
  left=$(ours)
  # shellcheck disable=SC2086 # a list of names
  [[ -z $left ]] || k delete --ignore-not-found --timeout=60s $left > /dev/null || true
  k delete namespace "$namespace" --ignore-not-found --timeout=120s --request-timeout=0 > /dev/null || true
  left=$(ours)
  ! k get namespace "$namespace" > /dev/null 2>&1 || left+=$'\n'namespace/$namespace
  if [[ -n $left ]]; then
    echo "   these objects remain; delete them: kubectl --context $context delete $(tr '\n' ' ' <<< "$left")"
    return 1
  fi
  echo "   nothing remains: no definition, no cluster-scoped object, no namespace"
}
finish() {
  local code=$?
  trap - EXIT
  # A second Ctrl-C does not interrupt the deletion.
  trap '' INT TERM HUP
  [[ -z $registry_pid ]] || kill "$registry_pid" 2> /dev/null || true
  if [[ -n $changed ]]; then
    if ((code != 0)); then
      echo "demo: FAILED; pods, and the end of the logs:"
      k -n "$namespace" get pods -o wide || true
      k -n "$namespace" logs -l app.kubernetes.io/part-of=prewarmer --tail=10 --prefix || true
    fi
    remove_all || code=1
  fi
  rm -rf "$work"
  ((code != 0)) || echo "${bold}demo: completed in $((SECONDS - begun)) s$plain"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

helm=$(command -v helm) || helm=$(tests/cluster/cluster program helm)

# load_images FOLDER: loads the images of the OCI layouts in FOLDER into the nodes
load_images() {
  local name tag port='' crane
  crane=$(tests/cluster/cluster program crane)
  # The loaders need archives with the name of the image, which a registry adds to the layouts.
  "$crane" registry serve --address 127.0.0.1:0 > "$work/registry.log" 2>&1 &
  registry_pid=$!
  for _ in $(seq 100); do
    port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$work/registry.log")
    [[ -n $port ]] && break
    sleep 0.1
  done
  [[ -n $port ]] || fail "the temporary registry did not start: $(cat "$work/registry.log")"
  for name in prewarmer prewarmer-helper; do
    tag=$registry/$name:$chart_version
    "$crane" push --index "$1/$name" "127.0.0.1:$port/$name:$chart_version" > /dev/null 2>> "$work/registry.log"
    "$crane" pull --platform "linux/$machine" "127.0.0.1:$port/$name:$chart_version" "$work/$name.tar" 2>> "$work/registry.log"
    mkdir "$work/$name"
    tar -C "$work/$name" -xf "$work/$name.tar"
    sed -i.old "s#127.0.0.1:$port/$name:$chart_version#$tag#" "$work/$name/manifest.json"
    rm "$work/$name/manifest.json.old"
    (cd "$work/$name" && tar -cf "$work/$name.tar" -- *)
    case $loader in
      kind) kind load image-archive "$work/$name.tar" --name "${context#kind-}" ;;
      k3d) k3d image import "$work/$name.tar" --cluster "${context#k3d-}" ;;
      minikube) minikube image load "$work/$name.tar" ;;
      k3s) k3s ctr images import "$work/$name.tar" ;;
    esac
  done
  kill "$registry_pid"
  registry_pid=''
}

chart_version=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' deploy/chart/Chart.yaml)
registry=${IMAGES:-${REGISTRY:-prewarmer.local/demo}}
if [[ -z ${IMAGES:-} ]]; then
  title "building the images (debug build; the first build takes some minutes)"
  since=$SECONDS
  deploy/images.sh --profile quick ${REGISTRY:+--push "$REGISTRY"} target/demo-images
  echo "   built in $((SECONDS - since)) s"
  if [[ -n $loader ]]; then
    title "loading the images into the nodes by $loader"
    load_images "$PWD/target/demo-images"
  fi
fi

title "installing the chart into the namespace $namespace"
since=$SECONDS
changed=yes
k create namespace "$namespace" > /dev/null
"$helm" --kube-context "$context" install "$release" deploy/chart -n "$namespace" --set-string "image.registry=$registry" \
  --set "watchNamespace=$namespace,crds.keep=false,split=false,replicas=1,podDisruptionBudget.enabled=false" \
  --set "settings.admissionRetain=0s" ${VALUES:+-f "$VALUES"} --wait --timeout 3m > "$work/install.log" 2>&1 || fail "helm install failed: $(tail -n 5 "$work/install.log")"
k -n "$namespace" get pods -l app.kubernetes.io/part-of=prewarmer | sed 's/^/   /'
echo "   ready after $((SECONDS - since)) s"

title "applying a Deployment with 0 replicas: its image is pulled to the nodes, and no pod exists yet"
sleep 1 # Until the API server's watch has received the webhook configuration.
since=$SECONDS
deployment web "${selector%%=*}: \"${selector#*=}\"" "$image" | k apply -f - | sed 's/^/   /'
task=$(task_of web)
watch_task "$task" 600
seconds=$((SECONDS - since))
k -n "$namespace" get prewarmtask "$task" | sed 's/^/   /'
[[ $(k -n "$namespace" get prewarmtask "$task" -o jsonpath='{.status.phase}') == Completed ]] ||
  fail "the task ended without success: $(k -n "$namespace" get prewarmtask "$task" -o jsonpath='{.status.failedNodes}{.status.conditions[*].message}')"

title "starting one pod of it: the events of the kubelet"
k -n "$namespace" scale deployment/web --replicas=1 | sed 's/^/   /'
k -n "$namespace" rollout status deployment/web --timeout=90s --request-timeout=0 > /dev/null
for _ in $(seq 50); do
  events=$(image_events web-)
  [[ -z $events ]] || break
  sleep 0.2
done
# shellcheck disable=SC2001 # indents each line
sed 's/^/   /' <<< "$events"
grep -q 'already present' <<< "$events" || fail "the pod did not find its image"

title "summary"
echo "   the image was pulled in $seconds s, before the first pod existed; the pod found it on its node"
