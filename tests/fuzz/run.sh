#!/usr/bin/env bash
# Fuzzes untrusted input: admission reviews, image references, annotations, manifests, bodies of
# REST calls, events of an audit, and reconciles of the controller over objects that other users have
# modified.
# usage: tests/fuzz/run.sh [RUNS | SECONDSs [TARGET...]]
#   RUNS     executions of each target (default: 10 million), of an optimized build
#   SECONDSs time of each target, such as 10s, of a build with the dependencies of the tests
#   TARGET   review, reference, annotations, manifest, rest, audit or reconcile (default: all)
#   SEED     variable: seed of the random inputs (default: another one each time)
# New inputs are kept in target/fuzz; with KEEP=1 those that add coverage are added to the corpus in
# the repository. record.sh records the reviews of the corpus from a real API server.
set -euo pipefail
cd "$(dirname "$0")"
runs=${1:-10000000}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- review reference annotations manifest rest audit reconcile
say() { echo "fuzz: $*"; }
# shellcheck source=tests/environment.sh
. ../environment.sh
command -v c++ > /dev/null || { not_run "fuzzing" "a C++ compiler is required for libFuzzer (Debian package g++)"; exit; }
root=$(cd ../.. && pwd)
out=$root/target/fuzz
export RUSTC_WRAPPER=$PWD/rustc.sh
if [[ $runs == *s ]]; then
  bound=-max_total_time=${runs%s} target=$root/target profile=dev programs=$root/target/debug
else
  # The parsers get coverage instrumentation too.
  export INSTRUMENT="serde_json serde-saphyr granit-parser"
  host=$(rustc -vV | sed -n 's/^host: //p')
  export CARGO_BUILD_TARGET=$host
  bound=-runs=$runs target=$out profile=release programs=$out/$host/release
fi
say "building, profile $profile"
"${CARGO:-cargo}" build --locked --quiet --profile "$profile" --target-dir "$target"
for name in "$@"; do
  found=$out/corpus/$name
  mkdir -p "$found"
  say "$name: $bound"
  # Reviews may be as large as the API server's objects. The other inputs are short texts.
  longest=16384
  if [[ $name == review ]]; then
    longest=1048576
    python3 large.py corpus/review/create-deployment-web.json "$found/large"
  fi
  "$programs/$name" "$found" "corpus/$name" "$bound" -seed="${SEED:-0}" -max_len="$longest" -timeout=5 -rss_limit_mb=512 \
    -malloc_limit_mb=128 -print_final_stats=1 -verbosity=0 -artifact_prefix="$out/" 2>&1 | grep -vE '^(INFO|Loaded)' || exit 1
  if [ -n "${KEEP:-}" ]; then
    # The inputs of up to 16 KB that add coverage to the corpus, those that add most first: a
    # minimal set by size would consist of fragments that end in the parser.
    rm -rf "$found.added"
    cp -r "corpus/$name" "$found.added"
    "$programs/$name" -set_cover_merge=1 -max_len=16384 "$found.added" "$found" > /dev/null 2>&1
    find "$found.added" -type f -size -16k -printf '%f\n' | while read -r file; do
      [[ -e corpus/$name/$file ]] || echo "$file"
    done | head -n 100 | while read -r file; do cp "$found.added/$file" "corpus/$name/"; done
  fi
done
say "no failure found"
