#!/usr/bin/env bash
# Compares the webhooks of two builds. Both run at the same time, each in a separate cluster, and
# the load alternates between them every second, so that changes of the machine's speed affect both.
# usage: tests/measure/pair.sh BEFORE AFTER [TURNS]
# BEFORE and AFTER are the paths of two release builds of prewarmer; the default is 60 turns.
# Prints requests per second of the server's processor time over all turns, and the median and the
# quartiles of the ratios of adjacent turns.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
  [ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
  cargo build --quiet --release --locked --example load
  exec tests/cluster/cluster with --fake-nodes 20 -- tests/measure/pair.sh --inside "$1" "$2" "${3:-60}"
fi
# The first call starts BEFORE and calls this script in a second cluster, with AFTER for both
# programs. The second call starts AFTER and measures both.
program=$2 turns=$4
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh
MEASURE_RECORD=/dev/null
serve
make_review
here="127.0.0.1:$port $work/ca.pem $work/review.json $server"
if [ -z "${PAIR_BEFORE:-}" ]; then
  PAIR_BEFORE=$here tests/cluster/cluster with --fake-nodes 20 -- tests/measure/pair.sh --inside "$3" "$3" "$turns"
  exit
fi
turn() { # turn "ADDRESS CA REVIEW PID" CONNECTIONS: requests per second of processor time
  # shellcheck disable=SC2086
  target/release/examples/load $1 1 "$2" | awk 'END {print $3}'
}
for connections in 1 8 64; do
  for _ in $(seq "$turns"); do
    echo "$(turn "$PAIR_BEFORE" "$connections") $(turn "$here" "$connections")"
  done | awk -v n="$connections" '
    {before += 1 / $1; after += 1 / $2; ratio[NR] = $2 / $1}
    END {
      for (i = 1; i < NR; i++) for (j = i + 1; j <= NR; j++) if (ratio[j] < ratio[i]) {t = ratio[i]; ratio[i] = ratio[j]; ratio[j] = t}
      printf "%d connections: before %d, after %d requests per second of processor time; median ratio %.3f, quartiles %.3f and %.3f, of %d turns\n", \
        n, NR / before, NR / after, ratio[int((NR + 1) / 2)], ratio[int((NR + 3) / 4)], ratio[int((3 * NR + 1) / 4)], NR
    }'
done
