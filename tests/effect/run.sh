#!/usr/bin/env bash
# make effect: runs traces of workloads on simulated nodes, each under each policy in a cluster of its
# own, and makes the tables of docs/effect.md from the records. A run of the full scale takes 21
# minutes, the default is 30 runs. A run that fails does not end the others; it is named at the end.
# usage: run.sh [OPTION...]
#   --scale full|small   small: 50 nodes and traces of 2 minutes with the debug build, to test the
#                        programs, below 3 minutes for each run; writes only to target/effect-small
#   --traces "NAME..."   (default: all; with --scale small: rollouts)
#   --policies "NAME..." none, auto, all (default: all three; none also gives the computed oracle)
#   --nodes N            (default: 200; with --scale small: 50)
#   --seed N             seed of traces, images and kubelets (default: 1)
#   --rounds N           runs of each trace and policy, of which the tables have the median (default: 1)
set -euo pipefail
cd "$(dirname "$0")/../.."

# In a cluster: one run. The variables are those of the call below.
if [[ ${1:-} == --inside ]]; then
  trace=$2 policy=$3
  if [[ $policy != none ]]; then
    # shellcheck source=tests/measure/server.sh
    . tests/measure/server.sh
    serve
  fi
  "$EFFECT_BENCH" bench --trace "$trace" --policy "$policy" --scale "$EFFECT_SCALE" --nodes "$EFFECT_NODES" \
    --seed "$EFFECT_SEED" --record "$MEASURE_RECORD"
  [[ $policy == none ]] || show_server_log
  exit
fi

usage() { sed -n '2,14s/^# //p' "$0"; }
say() { echo "effect: $*"; }
all_traces=(rollouts autoscaling zone-failover node-upgrade inference continuous-integration cron-jobs workflows bursts mixed)
all_policies=(none auto all)
scale=full nodes='' seed=1 rounds=1 traces=() policies=("${all_policies[@]}")
while (($#)); do
  [[ $1 != -h && $1 != --help ]] || { usage; exit; }
  (($# > 1)) || { usage >&2; exit 2; }
  case $1 in
    --scale) scale=$2 ;;
    --traces) read -ra traces <<< "$2" ;;
    --policies) read -ra policies <<< "$2" ;;
    --nodes) nodes=$2 ;;
    --seed) seed=$2 ;;
    --rounds) rounds=$2 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
[[ $scale == full || $scale == small ]] || { echo "effect: --scale: expected full or small, got '$scale'" >&2; exit 2; }
out=target/effect
if [[ $scale == small ]]; then
  out+=-small
  ((${#traces[@]})) || traces=(rollouts)
else
  ((${#traces[@]})) || traces=("${all_traces[@]}")
fi
: "${nodes:=$([[ $scale == small ]] && echo 50 || echo 200)}"
for number in "$nodes" "$seed" "$rounds"; do
  [[ $number =~ ^[1-9][0-9]{0,3}$ ]] || { echo "effect: expected a number from 1 to 9999, got '$number'" >&2; exit 2; }
done
for name in "${traces[@]}"; do
  [[ " ${all_traces[*]} " == *" $name "* ]] || { echo "effect: unknown trace $name: expected ${all_traces[*]}" >&2; exit 2; }
done
for name in "${policies[@]}"; do
  [[ " ${all_policies[*]} " == *" $name "* ]] || { echo "effect: unknown policy $name: expected ${all_policies[*]}" >&2; exit 2; }
done
mkdir -p "$out"
# The state that is measured; the page that this run writes does not count as a change.
commit=$(git rev-parse --short=7 HEAD)
[[ -z $(git status --porcelain -- ':!docs/effect.md') ]] || commit+=-dirty
export MEASURE_SCALE=$scale MEASURE_OUT=$out EFFECT_SCALE=$scale EFFECT_NODES=$nodes EFFECT_SEED=$seed

say "building"
if [[ $scale == full ]]; then
  # The program of the images, which operators run.
  die() { say "$*"; exit 1; }
  # shellcheck source=deploy/static.sh
  . deploy/static.sh
  program=$PWD/$(build_static "$machine" release prewarmer | tail -n 1)
  cargo build --release --locked --package prewarmer-effect
  EFFECT_BENCH=target/release/prewarmer-effect
else
  cargo build --locked --bin prewarmer
  cargo build --locked --package prewarmer-effect
  program=$PWD/target/debug/prewarmer
  EFFECT_BENCH=target/debug/prewarmer-effect
fi
export program EFFECT_BENCH
tests/cluster/cluster build > /dev/null

failed=()
for trace in "${traces[@]}"; do
  export MEASURE_RECORD=$PWD/$out/$trace.tsv
  rm -f "$out/$trace".*
  printf 'load\t%s\nmeasured\t%s\t%s\n' "$(cut -d ' ' -f 1 /proc/loadavg)" "$(date -u +%F)" "$commit" > "$MEASURE_RECORD"
  for ((round = 1; round <= rounds; round++)); do
    for policy in "${policies[@]}"; do
      since=$SECONDS code=0
      say "$trace, policy $policy, round $round of $rounds"
      tests/cluster/cluster with --fake-nodes 0 -- bash tests/effect/run.sh --inside "$trace" "$policy" 2>&1 |
        tee "$out/$trace-$policy-$round.log" || code=1
      [[ $code == 0 ]] || failed+=("$trace, policy $policy, round $round: see $out/$trace-$policy-$round.log")
      say "$trace, policy $policy: $((SECONDS - since)) s"
    done
  done
done
# The page has all traces with a record, also of earlier calls, and none of a failed run.
command="write"
[[ $scale == full && ${#failed[@]} == 0 ]] || command="print"
python3 -B tests/effect/effect_tables.py "$command" || failed+=("the tables: a figure is missing or beyond its bound")
if ((${#failed[@]})); then
  say "FAILED:"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
say "all runs passed: ${traces[*]}"
