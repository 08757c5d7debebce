# Words, steps, processes and ports. Sourced by ../cluster.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer

say() { echo "cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

# step WHAT COMMAND...: says what is done and how long it took.
step() {
  local what=$1 begun=$SECONDS; shift
  "$@"
  say "$what: $((SECONDS - begun)) s"
}

# daemon NAME COMMAND...: runs in a session of its own, so that Ctrl-C in the terminal reaches only the script, which
# then stops things in order. Ends up in $dir/NAME.pid and $dir/NAME.log.
daemon() {
  local name=$1; shift
  PATH="$bin:$PATH" setsid "$@" > "$dir/$name.log" 2>&1 < /dev/null &
  echo $! > "$dir/$name.pid"
}

# await WHAT SECONDS COMMAND...: until the command succeeds; shows the log of WHAT if it never does.
await() {
  local name=$1 limit=$(($2 * 5)); shift 2
  for _ in $(seq "$limit"); do
    "$@" > /dev/null 2>&1 && return 0
    if [ -f "$dir/$name.pid" ] && ! kill -0 "$(cat "$dir/$name.pid")" 2> /dev/null; then break; fi
    sleep 0.2
  done
  say "$name did not get ready; the end of its log:"
  tail -n 15 "$dir/$name.log" >&2
  return 1
}

# free_ports N: the first of N consecutive free ports, below the range that the kernel gives to clients. The claim is a
# folder, so that clusters that start side by side do not meet.
free_ports() {
  local first next
  mkdir -p "$cache/ports"
  for _ in $(seq 200); do
    first=$((20000 + (RANDOM % 600) * 20))
    claim_ports "$first" || continue
    for next in $(seq "$first" $((first + $1 - 1))); do
      if (exec 3<> "/dev/tcp/127.0.0.1/$next") 2> /dev/null; then rm -rf "$cache/ports/$first"; continue 2; fi
    done
    echo "$first"
    return 0
  done
  return 1
}

# A claim whose cluster has gone is taken over.
claim_ports() {
  local claim=$cache/ports/$1
  if [ -f "$claim/dir" ] && [ ! -d "$(cat "$claim/dir")" ]; then rm -rf "$claim"; fi
  mkdir "$claim" 2> /dev/null && echo "$dir" > "$claim/dir"
}

# watch_owner PID DIR: stops the cluster when the process has ended, even by kill -9.
watch_owner() {
  setsid bash -c 'tail --pid="$0" -f /dev/null; sleep 1; exec bash "$1" stop "$2"' "$1" "$here/cluster" "$2" \
    > /dev/null 2>&1 < /dev/null &
  echo $! > "$2/watchdog"
}
