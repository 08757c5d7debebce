# shellcheck shell=bash
# Starts and stops the cluster's processes. A process is identified by its PID and start time, so
# that a reused PID is not mistaken for it.
#
# Variables are set by ../cluster, which sources this file (SC2154), or used there (SC2034).
# shellcheck disable=SC2154,SC2034

# start_time PID: prints the start time of the process in ticks since boot; fails if the process has
# ended. A killed process with several threads is a zombie as soon as its first thread has ended,
# while the others still hold its ports and files; it has ended with the last of them.
start_time() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return
  # The name in parentheses may contain spaces.
  stat=${stat##*) }
  # shellcheck disable=SC2086 # split into fields
  set -- $stat
  [[ $1 != Z && $1 != X ]] || ((${18} > 1)) || return
  printf '%s\n' "${20}"
}

same_process() { [[ -n $2 && $(start_time "$1") == "$2" ]]; }

# launch NAME COMMAND...: starts COMMAND in a separate session, so that Ctrl-C in the terminal does
# not reach it, and without the open files of this process, which may be locks.
launch() {
  local name=$1 self descriptor
  shift
  current=$name
  (
    for descriptor in /proc/self/fd/*; do
      descriptor=${descriptor##*/}
      if ((descriptor > 2 && descriptor != 255)); then eval "exec $descriptor>&-"; fi
    done
    # Stored in a variable, because BASHPID differs within $( ).
    self=$BASHPID
    printf '%s %s\n' "$self" "$(start_time "$self")" >"$dir/pids/$name"
    # Addresses of the cluster must not be accessed through a proxy.
    unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
    trap - INT TERM HUP EXIT
    PREWARMER_CLUSTER_COMPONENT=$dir PATH="$bin:$PATH" exec setsid "$@" </dev/null >>"$dir/logs/$name.log" 2>&1
  ) &
  disown
  # Until its PID is recorded, the process would count as ended.
  until [[ -s $dir/pids/$name ]]; do sleep 0.01; done
}

component_runs() {
  local pid started
  { read -r pid started <"$dir/pids/$1"; } 2>/dev/null && same_process "$pid" "$started"
}

# await SECONDS WHAT COMMAND...: waits until COMMAND succeeds; fails on timeout, or if the component
# that was launched last has ended.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    component_runs "$current" || { printf '%s has ended\n' "$current" >&2; return 1; }
    ((SECONDS < deadline)) || { printf 'timeout waiting for %s\n' "$what" >&2; return 1; }
    sleep 0.2
  done
}

# print_log_end NAME: prints the last lines of the log of a component.
print_log_end() {
  say "the end of the log of $1:"
  tail -n 20 "$dir/logs/$1.log" >&2 || true
}

# end_components NAME...: sends SIGTERM to all, waits up to 8 seconds, then sends SIGKILL.
end_components() {
  local name pid started deadline=$((SECONDS + 8)) left=()
  for name in "$@"; do
    { read -r pid started <"$dir/pids/$name"; } 2>/dev/null || continue
    if [[ $pid != "$$" ]] && same_process "$pid" "$started"; then
      kill "$pid" 2>/dev/null
      left+=("$pid $started")
    fi
    rm -f "$dir/pids/$name"
  done
  for name in "${left[@]}"; do
    read -r pid started <<<"$name"
    while same_process "$pid" "$started"; do
      ((SECONDS < deadline)) || kill -9 "$pid" 2>/dev/null
      sleep 0.05
    done
  done
  return 0
}

# Kills all other processes of this cluster: containerd's shims, and processes whose PID was not
# recorded.
end_strays() {
  local file pid
  for file in /proc/[0-9]*/environ; do
    pid=${file#/proc/}
    pid=${pid%/environ}
    [[ $pid == "$$" || $pid == "$BASHPID" ]] && continue
    grep -qzxF "PREWARMER_CLUSTER_COMPONENT=$dir" "$file" 2>/dev/null && kill -9 "$pid" 2>/dev/null
  done
  return 0
}

# remove_cgroups PREFIX: kills all processes in the control groups PREFIX*, and removes the groups.
# If only the shims were killed, the containers and their addresses would remain.
remove_cgroups() {
  local group try
  for try in {1..40}; do
    local groups=()
    for group in /sys/fs/cgroup/"$1"* /sys/fs/cgroup/*/"$1"*; do [[ -d $group ]] && groups+=("$group"); done
    ((${#groups[@]})) || return 0
    find "${groups[@]}" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | xargs -r kill -9 2>/dev/null
    find "${groups[@]}" -depth -type d -exec rmdir {} + 2>/dev/null
    ((try > 1)) && sleep 0.1
  done
  return 0
}

# remove_networks PREFIX: removes the network namespaces of pods, which the result files of the CNI
# plugins name.
remove_networks() {
  local result namespace container
  for result in /var/lib/cni/results/"$1"*; do
    [[ -f $result ]] || continue
    namespace=$(sed -n 's#.*"netns":"\([^"]*\)".*#\1#p' "$result")
    if [[ -n $namespace ]]; then
      umount -l "$namespace" 2>/dev/null
      rm -f "$namespace"
      container=${result#"/var/lib/cni/results/$1"*-}
      rm -f /var/lib/cni/results/cni-loopback-"${container%-*}"-*
    fi
    rm -f "$result"
  done
  return 0
}
