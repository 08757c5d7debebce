#!/usr/bin/env bash
# Fuzzes what strangers send: reviews, image references, annotations; and rounds of the controller over objects that anybody has written into.
# usage: tests/fuzz/run.sh [RUNS [TARGET...]]     executions of each target, 10 million by default; all of them by default
# Coverage comes from the compiler's own pass, so that a stable toolchain will do. What libFuzzer finds of interest is kept
# in target/fuzz; with KEEP=1 the smallest set that reaches as much replaces the corpus in the repository.
set -euo pipefail
cd "$(dirname "$0")"
runs=${1:-10000000}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- review reference annotations reconcile
say() { echo "fuzz: $*"; }
command -v c++ > /dev/null || { say "NOT RUN: a C++ compiler is needed for libFuzzer"; exit 1; }
target=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=../../target/fuzz
export RUSTFLAGS="--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1"
say "building"
cargo build --release --locked --quiet --target "$target"
for name in "$@"; do
  found=$CARGO_TARGET_DIR/corpus/$name
  mkdir -p "$found"
  say "$name: $runs executions"
  "$CARGO_TARGET_DIR/$target/release/$name" "$found" "corpus/$name" -runs="$runs" -max_len=16384 -timeout=5 -rss_limit_mb=512 \
    -malloc_limit_mb=128 -print_final_stats=1 -verbosity=0 -artifact_prefix="$CARGO_TARGET_DIR/" 2>&1 | grep -vE '^(INFO|Loaded)' || exit 1
  if [ -n "${KEEP:-}" ]; then
    mkdir -p "$found.small"
    "$CARGO_TARGET_DIR/$target/release/$name" -merge=1 -max_len=2048 "$found.small" "corpus/$name" "$found" > /dev/null 2>&1
    find "$found.small" -type f -size -2k -printf '%s %p\n' | sort -n | awk 'NR <= 150 {print $2}' | while read -r file; do
      cp "$file" "corpus/$name/"
    done
  fi
done
say "nothing found"
