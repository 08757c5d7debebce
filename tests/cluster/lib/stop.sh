# Stops all of a cluster, in order, and says what runs. Sourced by ../cluster.

stop() {
  [ -d "$1" ] || return 0
  (
    set +e
    cd "$1" || exit 0
    for name in $(ls -- *-kubelet.pid 2> /dev/null | sed 's/.pid$//') kwok scheduler kcm apiserver etcd; do end "$name"; done
    stop_containers
    for name in $(ls -- *-containerd.pid 2> /dev/null | sed 's/.pid$//') registry; do end "$name"; done
    awk -v d="$PWD/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l 2> /dev/null
    [ -f port ] && rm -rf "$cache/ports/$(cat port)"
    # The watchdog ends last, for it may be the one that does this.
    watchdog=$(cat watchdog 2> /dev/null)
    rm -f watchdog env
    if [ -n "$watchdog" ] && [ "$watchdog" != $$ ]; then kill -- "-$watchdog" 2> /dev/null; fi
    exit 0
  )
}

# end NAME: asks, waits up to 10 s, insists.
end() {
  local pid
  [ -f "$1.pid" ] || return 0
  pid=$(cat "$1.pid")
  kill "$pid" 2> /dev/null
  for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2> /dev/null
  rm -f "$1.pid"
}

# Containers outlive their shims: they are ended by their cgroups, and their network namespaces by what the CNI plugins
# noted, or the next cluster would meet stale routes.
stop_containers() {
  local port group result netns
  port=$(cat port 2> /dev/null) || return 0
  ps -eo pid,args | awk -v s="-address $PWD/" '/containerd-shim-runc-v2/ && index($0, s) {print $1}' | xargs -r kill 2> /dev/null
  for group in /sys/fs/cgroup/*/test"$port"-* /sys/fs/cgroup/test"$port"-*; do
    [ -d "$group" ] || continue
    find "$group" -name cgroup.procs -exec cat {} + 2> /dev/null | sort -u | xargs -r kill -9 2> /dev/null
  done
  sleep 0.3
  find /sys/fs/cgroup/*/test"$port"-* /sys/fs/cgroup/test"$port"-* -depth -type d -exec rmdir {} + 2> /dev/null
  for result in /var/lib/cni/results/test"$port"-*; do
    [ -f "$result" ] || continue
    netns=$(sed -n 's#.*"netns":"\([^"]*\)".*#\1#p' "$result")
    [ -n "$netns" ] && ip netns delete "$(basename "$netns")" 2> /dev/null
    rm -f "$result" "${result/test*-*-/cni-loopback-}"
  done
}

status() {
  dir=$(cd "$1" && pwd)
  [ -f "$dir/env" ] || fail "$dir holds no running cluster"
  bin=$(. "$dir/env" && echo "$BIN")
  local file name
  for file in "$dir"/*.pid; do
    name=$(basename "$file" .pid)
    if kill -0 "$(cat "$file")" 2> /dev/null; then echo "$name: running, process $(cat "$file")"; else echo "$name: ended"; fi
  done
  echo "nodes ready: $(kubectl get nodes --no-headers 2> /dev/null | awk '$2 == "Ready"' | wc -l)"
}
