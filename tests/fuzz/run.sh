#!/usr/bin/env bash
# Fuzzes untrusted input: admission reviews, image references, annotations, and reconciles of the
# controller over objects that other users have modified.
# usage: tests/fuzz/run.sh [RUNS [TARGET...]]
#   RUNS    executions of each target (default: 10 million)
#   TARGET  review, reference, annotations or reconcile (default: all)
# Coverage instrumentation uses LLVM's own pass, so that a stable toolchain suffices. New inputs are
# kept in target/fuzz; with KEEP=1 a minimized set with the same coverage is added to the corpus in
# the repository.
set -euo pipefail
cd "$(dirname "$0")"
runs=${1:-10000000}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- review reference annotations reconcile
say() { echo "fuzz: $*"; }
command -v c++ > /dev/null || { say "NOT RUN: a C++ compiler is required for libFuzzer"; exit 1; }
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
say "no failure found"
