# shellcheck shell=bash
# Real nodes: containerd with runc, a kubelet, and one registry for all nodes.
#
# Variables are set by ../cluster, which sources this file (SC2154), or used there (SC2034).
# shellcheck disable=SC2154,SC2034

# Sets `reason` to the reason why this machine cannot run a real node, or to an empty string.
probe_real_nodes() {
  local lack=() packages=() output
  reason=
  ((EUID == 0)) || { reason="root is required"; return; }
  find_cni
  command -v runc >/dev/null || { lack+=(runc); packages+=(runc); }
  [[ -n $cni ]] || { lack+=("the CNI plugin ptp"); packages+=(containernetworking-plugins); }
  command -v iptables >/dev/null || { lack+=(iptables); packages+=(iptables); }
  command -v ip >/dev/null || { lack+=(ip); packages+=(iproute2); }
  if ((${#lack[@]})); then
    printf -v output '%s, ' "${lack[@]}"
    output=${output%, }
    command -v apt-get >/dev/null || { reason="$output: not installed, and apt-get is not available"; return; }
    begin "installing ${packages[*]} with apt-get"
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } \
      >"$dir/logs/apt-get.log" 2>&1 </dev/null; then
      printf 'failed\n' >&2
      reason="$output: not installed, and apt-get failed: $(tail -n 1 "$dir/logs/apt-get.log")"
      return
    fi
    finish
    find_cni
  fi
  unshare --mount --net true 2>/dev/null || { reason="not permitted to create namespaces"; return; }
  make_cgroup "$network-probe" || reason="not permitted to create control groups"
  remove_cgroups "$network-probe"
}

find_cni() {
  local folder
  cni=
  for folder in /usr/lib/cni /opt/cni/bin; do
    [[ -x $folder/ptp && -x $folder/host-local && -x $folder/loopback ]] && cni=$folder
  done
  return 0
}

# make_cgroup NAME: creates the group in each hierarchy of cgroup v1, or once in cgroup v2.
make_cgroup() {
  local root made=
  for root in /sys/fs/cgroup/ /sys/fs/cgroup/*/; do
    [[ -f $root/cgroup.procs ]] || continue
    # In cgroup v2 the directories below the root are groups, not hierarchies.
    [[ $root != /sys/fs/cgroup/ && -f /sys/fs/cgroup/cgroup.procs ]] && continue
    mkdir -p "$root/$1" 2>/dev/null || return
    made=yes
    # In cgroup v1 a new cpuset is empty until it is configured.
    if [[ -f $root/cpuset.cpus && -f $root/cpuset.mems ]]; then
      cat "$root/cpuset.cpus" >"$root/$1/cpuset.cpus" 2>/dev/null || true
      cat "$root/cpuset.mems" >"$root/$1/cpuset.mems" 2>/dev/null || true
    fi
  done
  [[ -n $made ]]
}

# subnet INDEX: prints the subnet of a real node without its last octet.
subnet() { printf '10.88.%d' $((slot * max_real_nodes + $1)); }

# node_address INDEX: prints the address on which the kubelet listens, local to this machine.
node_address() { printf '%s.250' "$(subnet "$1")"; }

remove_addresses() {
  local index
  command -v ip >/dev/null || return 0
  for ((index = 1; index <= max_real_nodes; index++)); do ip address del "$(node_address "$index")/32" dev lo 2>/dev/null; done
  return 0
}

start_registry() {
  begin "starting a registry at $registry"
  mkdir -p "$dir/registry" "$dir/pause"
  launch registry "$bin/crane" registry serve --address "$registry" --disk "$dir/registry"
  await 20 "the registry" bash -c "exec 3<>/dev/tcp/${registry/://}"
  # The sandbox image comes from this registry too, so that no other registry is needed.
  cp "$bin/pause" "$dir/pause/pause"
  tar -C "$dir/pause" -cf "$dir/pause.tar" pause
  "$bin/crane" append --insecure -f "$dir/pause.tar" -t "$registry/pause:0" >>"$dir/logs/registry.log" 2>&1
  "$bin/crane" mutate --insecure --entrypoint /pause "$registry/pause:0" -t "$registry/pause:1" >>"$dir/logs/registry.log" 2>&1
  finish
}

# Overlayfs cannot be mounted on another overlayfs, for example inside a container.
choose_snapshotter() {
  local probe=$dir/overlay-probe
  mkdir -p "$probe/lower" "$probe/upper" "$probe/work" "$probe/merged"
  if unshare --mount mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
    echo overlayfs
  else
    echo native
  fi
  rm -rf "$probe"
}

start_real_node() {
  local index=$1 name=real$1 node=$dir/real$1 group=$network-real$1
  begin "starting the real node $name"
  mkdir -p "$node/cni" "$node/kubelet" "$node/logs" "$node/certs.d" "$node/store/io.containerd.content.v1.content"
  # Separate content store of limited size, which a test can fill without affecting the other nodes.
  ((index == 1 || index < real_nodes)) || mount -t tmpfs -o "size=$content_size" tmpfs "$node/store/io.containerd.content.v1.content"
  cat >"$node/cni/10-ptp.conflist" <<C
{"cniVersion":"1.0.0","name":"$group","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":"$node/ipam","ranges":[[{"subnet":"$(subnet "$index").0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
C
  cat >"$node/containerd.toml" <<C
version = 3
root = "$node/store"
state = "$node/state"
[grpc]
  address = "$node/containerd.sock"
[ttrpc]
  address = "$node/containerd.sock.ttrpc"
[plugins.'io.containerd.nri.v1.nri']
  disable = true   # its socket is shared by the entire machine
[plugins.'io.containerd.internal.v1.opt']
  path = "$node/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "$snapshotter"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "$node/certs.d"   # empty; tests may add the configuration of a registry
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "$registry/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true   # needed where root lacks CAP_SYS_RESOURCE; otherwise no container starts
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["$cni"]
    conf_dir = "$node/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "$node/runc"
C
  cat >"$node/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$group   # one per kubelet, because a kubelet removes unknown pod cgroups
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false   # the chains would remain after the cluster
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: $(node_address "$index")
port: $((port + 8 + 2 * index))
healthzPort: $((port + 9 + 2 * index))
readOnlyPort: 0
containerRuntimeEndpoint: unix://$node/containerd.sock
podLogsDir: $node/logs
volumePluginDir: $node/volume-plugins
resolvConf: /etc/resolv.conf
enforceNodeAllocatable: []
evictionHard: {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
registerNode: true
maxPods: 50
C
  make_cgroup "$group"
  ip address add "$(node_address "$index")/32" dev lo 2>/dev/null || true
  launch "$name-containerd" "$bin/containerd" --config "$node/containerd.toml"
  await 30 "containerd" test -S "$node/containerd.sock"
  launch "$name-kubelet" "$bin/kubelet" --config "$node/kubelet.yaml" --kubeconfig "$dir/kubeconfig" \
    --hostname-override "$name" --node-ip "$(node_address "$index")" --root-dir "$node/kubelet" --cert-dir "$node/pki" --v=2
  await 90 "node $name ready" real_node_ready "$name"
  finish
}

real_node_ready() { (($(ready_nodes --field-selector "metadata.name=$1") == 1)); }
