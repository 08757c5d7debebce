# Real nodes: containerd with runc, a kubelet, and (with the first) a registry. Sourced by ../cluster.

packages=(runc containernetworking-plugins iptables)

# Why this machine can have no real nodes; nothing when it can. Installs Debian packages where root allows.
real_nodes_obstacle() {
  [ "$(id -u)" -eq 0 ] || { echo "kubelet and containerd need root"; return; }
  if ! have_packages; then
    say "installing ${packages[*]} with apt-get"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } > "$dir/apt.log" 2>&1 || true
  fi
  have_packages || { echo "${packages[*]} are needed, and apt-get could not install them"; return; }
  ls -d /sys/fs/cgroup/*/ > /dev/null 2>&1 || echo "there are no cgroups"
}

have_packages() { command -v runc > /dev/null && command -v iptables > /dev/null && [ -x /usr/lib/cni/ptp ]; }

# start_real_node INDEX. Ports: +3 the registry; +4, +5 the first node's kubelet, +6, +7 the second's, and so on.
start_real_node() {
  local index=$1 name=real$1
  network=test$port-$name   # unique: by it, stop finds the pods' cgroups and network namespaces
  node=$dir/$name
  registry=127.0.0.1:$((port + 3))
  mkdir -p "$node/cni" "$node/kubelet"
  [ -f "$dir/registry.pid" ] || start_registry
  write_node_files "$index"
  make_cgroups
  daemon "$name-containerd" "$bin/containerd" --config "$node/containerd.toml"
  await "$name-containerd" 20 test -S "$node/containerd.sock"
  daemon "$name-kubelet" "$bin/kubelet" --config "$node/kubelet.yaml" --kubeconfig kubeconfig --hostname-override "$name" \
    --root-dir "$node/kubelet" --cert-dir "$node/pki" --v=2
  await "$name-kubelet" 60 kubectl wait --for=condition=Ready "node/$name" --timeout=1s
}

start_registry() {
  mkdir -p registry-data pause
  daemon registry "$bin/crane" registry serve --address "$registry" --disk "$dir/registry-data"
  await registry 20 "$bin/crane" catalog --insecure "$registry"
  echo "$registry" > registry.address
  cp "$bin/pause" pause/pause && tar -C pause -cf pause.tar pause
  "$bin/crane" append --insecure -f pause.tar -t "$registry/pause:0" > /dev/null 2>&1
  "$bin/crane" mutate --insecure --entrypoint /pause "$registry/pause:0" -t "$registry/pause:1" > /dev/null 2>&1
}

# Pod subnets: one of 10.88.0.0/16's for each port range and node, so that clusters side by side do not share any.
write_node_files() {
  local subnet=10.88.$(((port - 20000) / 20 % 120 * 2 + $1 % 2)).0/24
  cat > "$node/cni/10-ptp.conflist" <<C
{"cniVersion":"1.0.0","name":"$network","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":"$node/ipam","ranges":[[{"subnet":"$subnet"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
C
  cat > "$node/containerd.toml" <<C
version = 3
root = "$node/root"
state = "$node/state"
[grpc]
  address = "$node/containerd.sock"
[ttrpc]
  address = "$node/containerd.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "$registry/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true   # a sandbox without CAP_SYS_RESOURCE may not lower it; without this no container starts
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$node/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "$node/runc"
C
  cat > "$node/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$network   # one per kubelet: each removes pod cgroups that it does not know
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
port: $((port + 2 + 2 * $1))
readOnlyPort: 0
healthzPort: $((port + 3 + 2 * $1))
containerRuntimeEndpoint: unix://$node/containerd.sock
resolvConf: /etc/resolv.conf
enforceNodeAllocatable: []
evictionHard: {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
registerNode: true
maxPods: 50
C
}

make_cgroups() {
  local controller
  for controller in /sys/fs/cgroup/*/; do
    [ -f "$controller/cgroup.procs" ] || continue
    mkdir -p "$controller/$network"
    if [ -f "$controller/cpuset.cpus" ]; then   # cgroup v1: a new cpuset has no cpus until told
      cat "$controller/cpuset.cpus" > "$controller/$network/cpuset.cpus" 2> /dev/null || true
      cat "$controller/cpuset.mems" > "$controller/$network/cpuset.mems" 2> /dev/null || true
    fi
  done
}
