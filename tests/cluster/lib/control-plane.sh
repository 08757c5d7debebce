# etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok. Sourced by ../cluster.

controllers=job-controller,garbage-collector-controller,ttl-after-finished-controller,serviceaccount-controller
controllers+=,serviceaccount-token-controller,root-ca-certificate-publisher-controller,namespace-controller
controllers+=,deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller
controllers+=,endpointslice-controller,endpoints-controller,disruption-controller,resourcequota-controller
controllers+=,cronjob-controller,pod-garbage-collector-controller,clusterrole-aggregation-controller

kubectl() { "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

start_control_plane() {
  cd "$dir"
  port=$(free_ports 20)
  echo "$port" > port
  mkdir -p pki
  openssl genrsa -out sa.key 2048 2> /dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2> /dev/null
  local token
  token=$(openssl rand -hex 16)
  (umask 077; echo "$token,admin,admin,\"system:masters\"" > tokens.csv; write_kubeconfig "$token")
  step "etcd and kube-apiserver on port $port" start_api_server
  step "kube-controller-manager, kube-scheduler and kwok" start_controllers
}

write_kubeconfig() {
  cat > kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $1}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
K
}

# Priority and fairness are off and the limits of requests lifted: this machine is the only client, and a benchmark that
# is throttled measures the throttle.
start_api_server() {
  local client=http://127.0.0.1:$((port + 1)) peer=http://127.0.0.1:$((port + 2))
  daemon etcd "$bin/etcd" --data-dir etcd --unsafe-no-fsync --log-level warn --listen-client-urls "$client" \
    --advertise-client-urls "$client" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "default=$peer"
  daemon apiserver "$bin/kube-apiserver" --etcd-servers="$client" --cert-dir=pki --bind-address=0.0.0.0 \
    --enable-aggregator-routing=true --secure-port="$port" --service-cluster-ip-range=10.0.0.0/24 \
    --authorization-mode=Node,RBAC --allow-privileged=true --endpoint-reconciler-type=none \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=sa.pub \
    --service-account-signing-key-file=sa.key --token-auth-file=tokens.csv \
    --disable-admission-plugins=TaintNodesByCondition --enable-priority-and-fairness=false --max-requests-inflight=0 \
    --max-mutating-requests-inflight=0
  await apiserver 60 kubectl get --raw /readyz
}

start_controllers() {
  daemon kcm "$bin/kube-controller-manager" --kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig \
    --authorization-kubeconfig=kubeconfig --service-account-private-key-file=sa.key --root-ca-file=pki/apiserver.crt \
    --use-service-account-credentials --leader-elect=false --secure-port=0 --kube-api-qps="$qps" \
    --kube-api-burst="$((qps * 2))" --controllers="$controllers"
  daemon scheduler "$bin/kube-scheduler" --kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig \
    --authorization-kubeconfig=kubeconfig --leader-elect=false --secure-port=0
  daemon kwok "$bin/kwok" --kubeconfig kubeconfig --config "$here/kwok.yaml"
  await kcm 30 kubectl get serviceaccount default
}

make_fake_nodes() {
  [ "$fake_nodes" -gt 0 ] || return 0
  for number in $(seq -f %04g "$fake_nodes"); do
    cat <<N
---
apiVersion: v1
kind: Node
metadata:
  name: node-$number
  labels: {type: fake, kubernetes.io/hostname: node-$number, kubernetes.io/os: linux, kubernetes.io/arch: amd64}
  annotations: {kwok.x-k8s.io/node: fake}
N
  done | kubectl create -f - > /dev/null
  kubectl wait --for=condition=Ready node -l type=fake --timeout=60s > /dev/null
}
