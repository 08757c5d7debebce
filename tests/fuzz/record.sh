#!/usr/bin/env bash
# Records admission reviews as the API server sends them, for the corpus of the fuzz target `review`:
# creations, updates, scalings and deletions of each kind of record/objects.yaml, and
# those that controllers cause. Run by `tests/cluster/cluster with --fake-nodes 3 --`.
# usage: record.sh OUT     (tests/fuzz/corpus/review, for the corpus)
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
server=''
trap '[[ -z $server ]] || kill "$server"; rm -rf "$work"' EXIT
k() { "$KUBECTL" "$@"; }
bash certs/make-certs.sh "$work" 127.0.0.1 > /dev/null
port=$((${APISERVER_URL##*:} + 4))
python3 tests/fuzz/record/server.py "$port" "$work/tls.crt" "$work/tls.key" "$out" &
server=$!
k apply --server-side -f deploy/crds.yaml > /dev/null
k wait --for=condition=Established crd/prewarmtasks.prewarm.io crd/prewarmschedules.prewarm.io --timeout=30s > /dev/null
k create namespace shop > /dev/null
k apply -f - > /dev/null << Y
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: recorder}
webhooks:
- name: recorder.prewarm.io
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 5
  failurePolicy: Fail
  clientConfig: {url: "https://127.0.0.1:$port/", caBundle: $(base64 -w0 < "$work/ca.crt")}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
  rules:
  - {apiGroups: ["", apps, batch, prewarm.io], apiVersions: ["*"], operations: ["*"], resources: ["pods", "pods/ephemeralcontainers", "replicationcontrollers", "podtemplates", "deployments", "deployments/scale", "statefulsets", "daemonsets", "replicasets", "jobs", "cronjobs", "prewarmtasks", "prewarmtasks/status", "prewarmschedules"]}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: sandboxed}
handler: sandboxed
Y
for _ in $(seq 100); do
  k -n shop create --dry-run=server -f tests/fuzz/record/objects.yaml > "$work/log" 2>&1 || true
  compgen -G "$out/create-deployment-*" > /dev/null && break
  sleep 0.1
done
k -n shop apply -f tests/fuzz/record/objects.yaml > /dev/null
k -n shop set image deployment/web app=registry.example/shop/web:2.0 > /dev/null
k -n shop apply --server-side --force-conflicts -f tests/fuzz/record/objects.yaml > /dev/null
k -n shop scale deployment/web --replicas=5 > /dev/null
k -n shop debug pod/single --image=registry.example/shop/debug:1 --target=app --profile=general > /dev/null 2>&1 || true
k -n shop patch prewarmtask task --subresource=status --type=merge -p '{"status":{"phase":"Running"}}' > /dev/null
sleep 3 # Until controllers have created pods.
k -n shop delete -f tests/fuzz/record/objects.yaml --wait=false > /dev/null
k delete validatingwebhookconfiguration recorder > /dev/null
echo "recorded $(find "$out" -name '*-*.json' | wc -l) reviews in $out"
