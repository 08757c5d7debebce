#!/usr/bin/env bash
# make test-long: runs the measurements of docs/measurements.md and the long forms of tests, by
# sections. Each section writes its log, its record and its table to target/measurements. At the end
# the tables are written to docs/measurements.md; a section that was not run keeps its table there.
# A section fails if its command fails, or if a figure is beyond its bound (tables.py); all sections
# run, and the failed ones are named at the end.
# usage: run.sh [--scale full|small] [SECTION...]   (default: all sections; --list prints them)
#   --scale small        few nodes, tasks and rounds, to test the sections; writes only to
#                        target/measurements-small, and does not check bounds of time
#   PREWARMER_TEST_FUZZ  executions of each fuzz target (default: 10 million)
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/measure/sections.sh
. tests/measure/sections.sh
usage() { sed -n '2,11s/^# //p' "$0"; }
scale=full chosen=()
while (($#)); do
  case $1 in
    --scale)
      [[ ${2:-} == full || ${2:-} == small ]] || { usage >&2; exit 2; }
      scale=$2
      shift
      ;;
    --list) printf '%s\n' "${sections[@]}"; exit ;;
    -h | --help) usage; exit ;;
    *)
      [[ " ${sections[*]} " == *" $1 "* ]] || { echo "test-long: unknown section $1: expected ${sections[*]}" >&2; exit 2; }
      chosen+=("$1")
      ;;
  esac
  shift
done
((${#chosen[@]})) || chosen=("${sections[@]}")
say() { echo "test-long: $*"; }
out=target/measurements
[[ $scale == full ]] || out+=-small
mkdir -p "$out"
# The state that is measured; the tables that this run writes do not count as a change.
MEASURE_COMMIT=$(git rev-parse --short=7 HEAD)
[[ -z $(git status --porcelain -- ':!docs/measurements.md') ]] || MEASURE_COMMIT+=-dirty
export MEASURE_COMMIT MEASURE_SCALE=$scale MEASURE_OUT=$out

say "building"
# The program of the images, which operators run.
die() { say "$*"; exit 1; }
# shellcheck source=deploy/static.sh
. deploy/static.sh
program=$PWD/$(build_static "$machine" release prewarmer | tail -n 1)
export program PREWARMER_TEST_PROGRAM=$program
# The baselines are optimized for speed, of which the program gives up some for its size.
cargo build --release --locked --config 'profile.release.package.prewarmer.opt-level=3' --example load \
  --example baseline --example floor --example allocations --example admissions
if uses_tests "${chosen[@]}"; then
  cargo build --locked --workspace
  cargo test --locked --no-run
fi
tests/cluster/cluster build > /dev/null

failed=()
for section in "${chosen[@]}"; do
  say "$section"
  since=$SECONDS code=0
  export MEASURE_RECORD=$PWD/$out/$section.tsv
  rm -f "$out/$section".*
  printf 'load\t%s\n' "$(cut -d ' ' -f 1 /proc/loadavg)" > "$MEASURE_RECORD"
  # A shell of its own, because set -e has no effect in a function whose status is tested.
  bash -euo pipefail -c '. tests/measure/sections.sh; "section_$1"' section "$section" 2>&1 | tee "$out/$section.log" || code=1
  printf 'seconds\t%s\n' "$((SECONDS - since))" >> "$MEASURE_RECORD"
  if [[ $code != 0 ]]; then
    failed+=("$section: the command failed, see $out/$section.log")
  elif ! python3 tests/measure/tables.py section "$section"; then
    failed+=("$section: a figure is beyond its bound or missing")
  fi
  say "$section: $((SECONDS - since)) s"
done
if [[ $scale == full ]]; then
  python3 tests/measure/tables.py write "${chosen[@]}"
  if [[ " ${chosen[*]} " == *" scale "* ]]; then
    mkdir -p docs/scale
    cp "$out"/scale-*.svg docs/scale/
  fi
fi
if ((${#failed[@]})); then
  say "FAILED:"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
say "all of these sections passed: ${chosen[*]}"
