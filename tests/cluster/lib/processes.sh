# shellcheck shell=bash
# Starting and ending the cluster's programs. A program is known by its process
# id and the time it started, so that a reused id is never taken for it.

# Prints when the process PID started, in ticks since boot; fails if it has ended.
start_time() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return
  # The name, in brackets, may hold blanks.
  stat=${stat##*) }
  set -- $stat
  [[ $1 != Z && $1 != X ]] || return
  printf '%s\n' "${20}"
}

same_process() { [[ -n $2 && $(start_time "$1") == "$2" ]]; }

# launch NAME COMMAND...: in a session of its own, so that the terminal's Ctrl-C
# leaves the orderly stop to us, and without our open files, which may be locks.
launch() {
  local name=$1 self descriptor
  shift
  current=$name
  (
    for descriptor in /proc/self/fd/*; do
      descriptor=${descriptor##*/}
      if ((descriptor > 2 && descriptor != 255)); then eval "exec $descriptor>&-"; fi
    done
    # In $( ) BASHPID would be another.
    self=$BASHPID
    printf '%s %s\n' "$self" "$(start_time "$self")" >"$dir/pids/$name"
    # A proxy is for the network outside, never for this cluster's addresses.
    unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
    trap - INT TERM HUP EXIT
    PREWARMER_CLUSTER_COMPONENT=$dir PATH="$bin:$PATH" exec setsid "$@" </dev/null >"$dir/logs/$name.log" 2>&1
  ) &
  disown
  # Until it is written down, it would count as ended.
  until [[ -s $dir/pids/$name ]]; do sleep 0.01; done
}

component_runs() {
  local pid started
  { read -r pid started <"$dir/pids/$1"; } 2>/dev/null && same_process "$pid" "$started"
}

# await SECONDS WHAT COMMAND...: until COMMAND succeeds, or the component that
# was launched last has ended.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    component_runs "$current" || { printf '%s has ended\n' "$current" >&2; return 1; }
    ((SECONDS < deadline)) || { printf 'gave up waiting for %s\n' "$what" >&2; return 1; }
    sleep 0.2
  done
}

# end_components NAME...: all are told at once, then waited for, then killed.
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

# Ends whatever else this cluster has started: containerd's shims, and a program
# whose id was never written down.
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

# Kills all in the control groups named PREFIX*, and removes them. Killing the
# shims alone would leave the containers, and their addresses, behind.
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

# What the CNI plugins noted of our pods names their network namespaces.
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
