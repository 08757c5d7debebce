# shellcheck shell=bash
# The control plane on loopback, and the fake nodes simulated by kwok.
#
# Variables are set by ../cluster, which sources this file (SC2154), or used there (SC2034).
# shellcheck disable=SC2154,SC2034

make_certificates() {
  local index addresses="IP:127.0.0.1,IP:10.0.0.1"
  # Pods of a real node reach the API server at the first address of their subnet.
  for ((index = 1; index <= max_real_nodes; index++)); do addresses+=",IP:$(subnet "$index").1"; done
  mkdir -p "$dir/pki"
  {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=prewarmer-test-ca \
      -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=kube-apiserver \
      -keyout "$dir/pki/apiserver.key" -out "$dir/pki/apiserver.csr"
    openssl x509 -req -in "$dir/pki/apiserver.csr" -days 365 -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial \
      -out "$dir/pki/apiserver.crt" -extfile <(printf '%s\n' basicConstraints=critical,CA:FALSE extendedKeyUsage=serverAuth \
        "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,$addresses")
    openssl genrsa -out "$dir/pki/sa.key" 2048
    openssl rsa -in "$dir/pki/sa.key" -pubout -out "$dir/pki/sa.pub"
  } >"$dir/logs/openssl.log" 2>&1 || { current=openssl; return 1; }
}

write_kubeconfig() {
  local token
  token=$(openssl rand -hex 24)
  printf '%s,admin,admin,"system:masters"\n' "$token" >"$dir/pki/tokens.csv"
  cat >"$dir/kubeconfig" <<K
apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: $apiserver
    certificate-authority-data: $(base64 -w 0 "$dir/pki/ca.crt")
users:
- name: admin
  user: {token: $token}
contexts:
- name: test
  context: {cluster: test, user: admin}
current-context: test
K
}

# Audits only requests of the servers' service accounts. A test compares them with the accounts'
# permissions.
write_audit_policy() {
  cat >"$dir/audit-policy.yaml" <<'A'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:prewarmer:prewarmer", "system:serviceaccount:prewarmer:prewarmer-controller"]
- level: None
A
}

start_control_plane() {
  local etcd=http://127.0.0.1:$((port + 1)) peer=http://127.0.0.1:$((port + 2)) clients
  clients=(--kubeconfig="$dir/kubeconfig" --authentication-kubeconfig="$dir/kubeconfig"
    --authorization-kubeconfig="$dir/kubeconfig" --leader-elect=false --secure-port=0)
  # Only the owner may read the keys and tokens.
  umask 077
  make_certificates
  write_kubeconfig
  umask 022
  write_audit_policy

  begin "starting etcd and kube-apiserver at $apiserver"
  launch etcd "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
  # Binds to all interfaces for pods of real nodes. Aggregator routing makes webhooks behind a
  # Service reachable without kube-proxy.
  launch apiserver "$bin/kube-apiserver" --etcd-servers="$etcd" --cert-dir="$dir/pki" \
    --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --bind-address=0.0.0.0 --secure-port="$port" --enable-aggregator-routing=true --service-cluster-ip-range=10.0.0.0/24 \
    --authorization-mode=Node,RBAC --allow-privileged=true --endpoint-reconciler-type=none \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/pki/sa.pub" \
    --service-account-signing-key-file="$dir/pki/sa.key" --token-auth-file="$dir/pki/tokens.csv" \
    --disable-admission-plugins=TaintNodesByCondition --kubelet-preferred-address-types=InternalIP \
    --audit-policy-file="$dir/audit-policy.yaml" --audit-log-path="$dir/logs/audit.log" --audit-log-mode=batch \
    --enable-priority-and-fairness=false --max-requests-inflight=0 --max-mutating-requests-inflight=0
  await 60 "kube-apiserver ready" kubectl get --raw /readyz
  finish

  begin "starting kube-controller-manager ($qps requests/s), kube-scheduler and kwok"
  # Without the node-lifecycle controller, which would evict pods of nodes whose Lease is not
  # renewed: kwok renews none.
  launch controller-manager "$bin/kube-controller-manager" "${clients[@]}" \
    --service-account-private-key-file="$dir/pki/sa.key" --root-ca-file="$dir/pki/ca.crt" \
    --use-service-account-credentials --kube-api-qps="$qps" --kube-api-burst="$((qps * 2))" \
    --controllers=job-controller,garbage-collector-controller,ttl-after-finished-controller,serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,namespace-controller,deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,endpointslice-controller,endpoints-controller,disruption-controller,resourcequota-controller,cronjob-controller,pod-garbage-collector-controller
  launch scheduler "$bin/kube-scheduler" "${clients[@]}"
  launch kwok "$bin/kwok" --kubeconfig "$dir/kubeconfig" --config "$here/kwok.yaml"
  await 60 "the default service account" kubectl get serviceaccount default
  finish
}

make_fake_nodes() {
  ((fake_nodes > 0)) || return 0
  local index name arch
  arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
  begin "creating $fake_nodes fake nodes"
  for ((index = 1; index <= fake_nodes; index++)); do
    printf -v name 'node-%04d' "$index"
    cat <<N
---
apiVersion: v1
kind: Node
metadata:
  name: $name
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {type: fake, kubernetes.io/hostname: $name, kubernetes.io/os: linux, kubernetes.io/arch: $arch}
N
  done >"$dir/nodes.yaml"
  current=kwok
  # create instead of apply, which needs twice as many requests.
  kubectl create --validate=false -f "$dir/nodes.yaml" >"$dir/logs/nodes.log"
  await 120 "fake nodes ready" fake_nodes_ready
  finish
}

fake_nodes_ready() { (($(ready_nodes -l type=fake) == fake_nodes)); }

ready_nodes() {
  kubectl get nodes "$@" -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c '^True$' || true
}
